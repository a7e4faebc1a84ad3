"""Lightning callbacks: codes of query and database, their scores, and pictures."""

from udmsh_pl.callbacks.encode import EncodeCodes
from udmsh_pl.callbacks.evaluate import EvaluateRetrieval
from udmsh_pl.callbacks.figures import Figures

__all__ = ["EncodeCodes", "EvaluateRetrieval", "Figures"]
