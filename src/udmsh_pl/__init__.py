"""Unsupervised deep image hashing: UDMSH in PyTorch Lightning, its baselines, exact evaluation.

The names below are loaded when they are touched, so that ``import udmsh_pl`` costs nothing.

Example:
    >>> import udmsh_pl as uh
    >>> uh.unpack_codes(uh.pack_codes([[0.9, -0.2, 0.4]]), bits=3).tolist()
    [[1, -1, 1]]
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

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
    )  # fmt: skip
    from udmsh_pl.data.base import RetrievalDataModule
    from udmsh_pl.models import UDMSH, DualBranchEncoder, HashingModule, UDMSHPlus
    from udmsh_pl.retrieval import (
        BinaryIndex,
        HammingRetrieval,
        RetrievalReport,
        evaluate_codes,
        pack_codes,
        unpack_codes,
    )  # fmt: skip
    from udmsh_pl.search import HashEncoder, ImageIndex

__version__ = "0.3.0.dev0"

__all__ = [
    "CIFAR10", "COCO", "NUSWIDE", "UDMSH", "BinaryIndex", "DualBranchEncoder", "FashionMNIST",
    "FashionSample", "HammingRetrieval", "HashEncoder", "HashingModule", "ImageFolders",
    "ImageIndex", "ListFiles", "MIRFlickr", "RetrievalDataModule", "RetrievalReport", "UDMSHPlus",
    "evaluate_codes", "pack_codes", "unpack_codes",
]  # fmt: skip


def touched(
    package: str, names_of: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names load when used (PEP 562)."""
    module_of = {name: module for module, names in names_of.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, names


class _OldNames(MetaPathFinder, Loader):
    """Imports modules under the names that they had before, which other people's code uses."""

    moved: Mapping[str, str] = {
        "udmsh_pl.checkpoints": "udmsh_pl.runs.checkpoints",
        "udmsh_pl.losses": "udmsh_pl.similarity.losses",
        "udmsh_pl.reports.results": "udmsh_pl.reports.table_rows",
        "udmsh_pl.structure": "udmsh_pl.similarity.structure",
    }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in self.moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.moved[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module was executed under its new name."""


sys.meta_path.append(_OldNames())

# a new name is a word here, one above and one in the imports for type checkers
_NAMES_OF = {
    "udmsh_pl.data": "CIFAR10 COCO FashionMNIST FashionSample ImageFolders ListFiles MIRFlickr "
    "NUSWIDE",
    "udmsh_pl.data.base": "RetrievalDataModule",
    "udmsh_pl.models": "DualBranchEncoder HashingModule UDMSH UDMSHPlus",
    "udmsh_pl.retrieval": "BinaryIndex HammingRetrieval RetrievalReport evaluate_codes pack_codes "
    "unpack_codes",
    "udmsh_pl.search": "HashEncoder ImageIndex",
}

__getattr__, __dir__ = touched(__name__, _NAMES_OF)
