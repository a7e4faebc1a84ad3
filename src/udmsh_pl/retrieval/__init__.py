"""Binary codes and what they find: packing, exact evaluation, indexes. Knows no network and no Lightning."""

from udmsh_pl.retrieval.codes import pack_codes, unpack_codes
from udmsh_pl.retrieval.index import BinaryIndex
from udmsh_pl.retrieval.metrics import RetrievalReport, evaluate_codes

__all__ = ["BinaryIndex", "RetrievalReport", "evaluate_codes", "pack_codes", "unpack_codes"]
