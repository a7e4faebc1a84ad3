"""Unsupervised deep image hashing: UDMSH in PyTorch Lightning, its baselines, exact evaluation.

The names below are loaded when they are touched, so that ``import udmsh_pl`` costs nothing.

Example:
    >>> import udmsh_pl as uh
    >>> uh.unpack_codes(uh.pack_codes([[0.9, -0.2, 0.4]]), bits=3).tolist()
    [[1, -1, 1]]
"""

from typing import TYPE_CHECKING

from udmsh_pl.lazy import touched

if TYPE_CHECKING:
    from udmsh_pl.data import (
        CIFAR10,
        COCO,
        NUSWIDE,
        FashionMNIST,
        FashionSample,
        ImageFolders,
        ListFiles,
        MIRFlickr,
    )
    from udmsh_pl.data.base import RetrievalDataModule
    from udmsh_pl.models import UDMSH, DualBranchEncoder, HashingModule, UDMSHPlus
    from udmsh_pl.retrieval import (
        BinaryIndex,
        HammingRetrieval,
        RetrievalReport,
        evaluate_codes,
        pack_codes,
        unpack_codes,
    )
    from udmsh_pl.search import HashEncoder, ImageIndex

__version__ = "0.2.0"

__all__ = [
    "CIFAR10",
    "COCO",
    "NUSWIDE",
    "UDMSH",
    "BinaryIndex",
    "DualBranchEncoder",
    "FashionMNIST",
    "FashionSample",
    "HammingRetrieval",
    "HashEncoder",
    "HashingModule",
    "ImageFolders",
    "ImageIndex",
    "ListFiles",
    "MIRFlickr",
    "RetrievalDataModule",
    "RetrievalReport",
    "UDMSHPlus",
    "evaluate_codes",
    "pack_codes",
    "unpack_codes",
]

# a new name is one line here, one above and one in the imports for type checkers
_MODULE_OF = {
    "BinaryIndex": "udmsh_pl.retrieval",
    "HammingRetrieval": "udmsh_pl.retrieval",
    "RetrievalReport": "udmsh_pl.retrieval",
    "evaluate_codes": "udmsh_pl.retrieval",
    "pack_codes": "udmsh_pl.retrieval",
    "unpack_codes": "udmsh_pl.retrieval",
    "DualBranchEncoder": "udmsh_pl.models",
    "HashingModule": "udmsh_pl.models",
    "UDMSH": "udmsh_pl.models",
    "UDMSHPlus": "udmsh_pl.models",
    "RetrievalDataModule": "udmsh_pl.data.base",
    "CIFAR10": "udmsh_pl.data",
    "COCO": "udmsh_pl.data",
    "FashionMNIST": "udmsh_pl.data",
    "FashionSample": "udmsh_pl.data",
    "ImageFolders": "udmsh_pl.data",
    "ListFiles": "udmsh_pl.data",
    "MIRFlickr": "udmsh_pl.data",
    "NUSWIDE": "udmsh_pl.data",
    "HashEncoder": "udmsh_pl.search",
    "ImageIndex": "udmsh_pl.search",
}

__getattr__, __dir__ = touched(__name__, _MODULE_OF)
