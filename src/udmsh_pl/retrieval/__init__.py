"""Binary codes and what they find: packing, exact evaluation, indexes.

Knows no network and no Lightning.
"""

from typing import TYPE_CHECKING, Any

from udmsh_pl.retrieval.bootstrap import PairedDifference, bootstrap_interval, paired_difference
from udmsh_pl.retrieval.codes import pack_codes, unpack_codes
from udmsh_pl.retrieval.metrics import RetrievalReport, evaluate_codes
from udmsh_pl.retrieval.quality import CodeQuality, code_quality, neighbour_flips

if TYPE_CHECKING:
    from udmsh_pl.retrieval.index import BinaryIndex
    from udmsh_pl.retrieval.torchmetric import HammingRetrieval

__all__ = [
    "BinaryIndex",
    "CodeQuality",
    "HammingRetrieval",
    "PairedDifference",
    "RetrievalReport",
    "bootstrap_interval",
    "code_quality",
    "evaluate_codes",
    "neighbour_flips",
    "pack_codes",
    "paired_difference",
    "unpack_codes",
]


def __getattr__(name: str) -> Any:
    # FAISS and torchmetrics take a second to import: only those who use them wait
    if name == "BinaryIndex":
        from udmsh_pl.retrieval.index import BinaryIndex

        return BinaryIndex
    if name == "HammingRetrieval":
        from udmsh_pl.retrieval.torchmetric import HammingRetrieval

        return HammingRetrieval
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
