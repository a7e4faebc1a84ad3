"""Binary codes and what they find: packing, exact evaluation, indexes.

Knows no network and no Lightning.
"""

from typing import TYPE_CHECKING

from udmsh_pl import touched
from udmsh_pl.retrieval.codes import pack_codes, unpack_codes

if TYPE_CHECKING:
    from udmsh_pl.retrieval.bootstrap import PairedDifference, bootstrap_interval, paired_difference
    from udmsh_pl.retrieval.evaluation import RetrievalReport, evaluate_codes
    from udmsh_pl.retrieval.index import BinaryIndex
    from udmsh_pl.retrieval.torchmetric import HammingRetrieval

__all__ = [
    "BinaryIndex", "HammingRetrieval", "PairedDifference", "RetrievalReport",
    "bootstrap_interval", "evaluate_codes", "pack_codes",
    "paired_difference", "unpack_codes",
]  # fmt: skip


# FAISS, numba and torchmetrics take a second to import: only those who use them wait
_NAMES_OF = {
    "udmsh_pl.retrieval.bootstrap": "PairedDifference bootstrap_interval paired_difference",
    "udmsh_pl.retrieval.evaluation": "RetrievalReport evaluate_codes",
    "udmsh_pl.retrieval.index": "BinaryIndex",
    "udmsh_pl.retrieval.torchmetric": "HammingRetrieval",
}

__getattr__, __dir__ = touched(__name__, _NAMES_OF)
