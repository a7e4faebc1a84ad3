"""Train features, and teachers fitted to them: kept on disk, so that runs and processes share them.

A teacher is a handful of tensors, kept as ``<name>-<digest>.safetensors`` with its SHA-256 in a
``.json`` beside it; the digest covers the features and the settings of the fit. Of several
processes that ask, one fits, the others wait at a lock and memory-map the file.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays
from udmsh_pl.features.verified import are_whole, read_stamp
from udmsh_pl.safe.files import atomic_path, sha256_file, sha256_json, write_text
from udmsh_pl.safe.profile import clock

FORMAT = 3  # raise it when any fit changes its meaning, so that old teachers are left alone
State = dict[str, Tensor]
Rows = dict[str, NDArray[Any]]  # arrays [N, ...] of train images, by name
Settings = TypeVar("Settings")


@dataclass(frozen=True, eq=False)
class TrainFeatures:
    """The train split's cached features, and the folder of the teachers that are fitted to them.

    Args:
        arrays: as :class:`udmsh_pl.features.extract.FeatureExtractor` gives them: float16
            ``global_feature [N, D]``, ``feature_map [N, C, g, g]`` and, where there are views,
            ``views [N, V, D]`` and ``view_maps [N, V, C, g, g]``
        folder: where teachers are kept; None keeps them in memory
        key: identifies the stores that the arrays come from
    """

    arrays: Arrays
    folder: Path | None = None
    key: str = ""
    _fitted: dict[tuple[str, str], State] = field(default_factory=dict, repr=False)

    @clock("teacher")
    def teacher(
        self, name: str, settings: Settings, fit: Callable[[Arrays, Settings], State]
    ) -> State:
        """What ``fit(arrays, settings)`` gives, or gave before: in this process, or as a file.

        Args:
            name: first part of the file's name
            settings: a dataclass with everything but the arrays that decides the fit, in values
                that JSON can hold
            fit: makes the teacher's tensors on the CPU, from its two arguments alone
        """
        facts = {"key": self.key, "settings": asdict(settings), "format": FORMAT}  # type: ignore[call-overload]
        digest = sha256_json(facts)[:16]
        if self.folder is None:
            if (name, digest) not in self._fitted:
                self._fitted[name, digest] = fit(self.arrays, settings)
            return self._fitted[name, digest]
        path = self.folder / f"{name}-{digest}.safetensors"
        found = _open(path)
        if found is None:
            with _locked(path):
                if _open(path) is None:
                    _write(path, fit(self.arrays, settings))
            found = _open(path)
        if found is None:
            raise InputError(f"{path} changed while it was written; is another program at it?")
        return found


@runtime_checkable
class HasTrainFeatures(Protocol):
    """A data module that a method can learn from."""

    @property
    def train_features(self) -> TrainFeatures:
        """The train split's features."""


def _open(path: Path) -> State | None:
    """Memory-map a teacher; None when there is none that is whole."""
    stamp = path.with_suffix(".json")
    digest = read_stamp(stamp).get(path.name, {}).get("sha256")
    try:
        return load_file(path) if digest and are_whole({path: digest}, stamp) else None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error}); mend that, or give --data.cache_dir another folder"
        ) from error


def _locked(path: Path) -> AbstractContextManager[Any]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_suffix(".lock")).acquire()
    except OSError as error:
        raise _not_written(path, error) from error


def _write(path: Path, state: State) -> None:
    owned = {}
    for name, value in state.items():  # safetensors writes what has a memory of its own
        alone = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        owned[name] = value if alone else value.clone(memory_format=torch.contiguous_format)
    try:
        with atomic_path(path) as partial:
            save_file(owned, partial)
            # safetensors' is for the owner alone
            shutil.copymode(path.with_suffix(".lock"), partial)
            digest = sha256_file(partial)
        write_text(path.with_suffix(".json"), json.dumps({path.name: {"sha256": digest}}))
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: Exception) -> InputError:
    return InputError(
        f"teacher {path} cannot be written ({error}); free some room or give --data.cache_dir "
        "another disk"
    )
