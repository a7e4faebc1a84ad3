"""Frozen features on disk: written block by block, resumable, and either whole or never used.

A finished store is a directory with one raw little-endian float16 file an array, ``meta.json``
(key, shapes, SHA-256) and ``verified.json`` (:mod:`udmsh_pl.features.verified`). It is written in
``<directory>.part``, whose ``done.json`` counts the rows that are safely on disk, and renamed when
the last block is there; a killed run goes on at the last finished block.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.features.verified import are_whole
from udmsh_pl.files import sha256_file, write_text

Batch = dict[str, Tensor]
Arrays = dict[str, NDArray[np.float16]]
DTYPE = np.dtype("<f2")


def sample_rows(count: int, limit: int | None) -> NDArray[np.int64]:
    """At most ``limit`` of ``count`` rows, rising, drawn with a fixed seed: what is fitted to many
    images needs no more.
    """
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def open_features(directory: Path) -> Arrays | None:
    """Memory-map a finished store, or None when there is none that is whole.

    The bytes are checked against the recorded SHA-256 once, and again when a file has changed. A
    store that was cut or altered is left where it is until :class:`FeatureWriter` makes it anew.

    Raises:
        InputError: the store cannot be read for a reason that says nothing about its content.
    """
    if not directory.is_dir():
        return None
    try:
        shapes = _shapes_if_whole(directory)
        if shapes is None:
            return None
        return {
            name: np.memmap(directory / f"{name}.f16", DTYPE, "r", shape=shape)
            for name, shape in shapes.items()
        }
    except OSError as error:
        raise InputError(
            f"the features in {directory} cannot be read ({error}); mend that, or give "
            "--data.cache_dir another folder"
        ) from error


def _shapes_if_whole(directory: Path) -> dict[str, tuple[int, ...]] | None:
    """Shape of each array, or None where a file is absent, cut or altered."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        digests, shapes = {}, {}
        for name, facts in meta["arrays"].items():
            path, shape = directory / f"{name}.f16", tuple(facts["shape"])
            if path.stat().st_size != int(np.prod(shape)) * DTYPE.itemsize:
                return None
            digests[path], shapes[name] = str(facts["sha256"]), shape
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shapes if are_whole(digests, directory / "verified.json") else None


def store_runners(directory: Path) -> list[str]:
    """What made the rows of a finished store; nothing for stores of 0.1.0."""
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return [str(name) for name in meta.get("runners", ())]


class FeatureWriter:
    """Appends blocks of rows to a store, resuming an unfinished one with the same key.

    Args:
        directory: where the finished store will be; a damaged one that is there makes room for it
        key: everything that decides the content; written to ``meta.json``
        rows: N, rows of the finished store
        shapes: shape of one row of each array
        runner: what makes the rows; ``meta.json`` lists all that made some, beside the key

    Raises:
        InputError: the disk has too little room for the whole store.
    """

    def __init__(
        self,
        directory: Path,
        key: Mapping[str, Any],
        rows: int,
        shapes: Mapping[str, tuple[int, ...]],
        runner: str = "torch",
    ) -> None:
        self.directory, self.key, self.rows, self.shapes = directory, dict(key), rows, dict(shapes)
        self.part = directory.with_name(directory.name + ".part")
        if directory.exists() and open_features(directory) is None:
            shutil.rmtree(directory)
        self.part.mkdir(parents=True, exist_ok=True)
        self.runners = [runner]
        self.done = self._resume()
        need = self.bytes_needed - self.done * self.bytes_needed // max(rows, 1)
        free = shutil.disk_usage(self.part).free
        if need > free:
            raise self._full(f"needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")

    @property
    def bytes_needed(self) -> int:
        """Size of the finished store in bytes."""
        return sum(self.rows * self._row_bytes(name) for name in self.shapes)

    def append(self, block: Mapping[str, NDArray[np.floating[Any]]]) -> None:
        """Write the next rows of every array, then the count: a kill between the two only repeats
        this block.
        """
        try:
            count = 0
            for name in self.shapes:
                values = np.ascontiguousarray(block[name], dtype=DTYPE)
                count = len(values)
                with (self.part / f"{name}.f16").open("ab") as stream:
                    stream.write(values.tobytes())
            write_text(
                self.part / "done.json",
                json.dumps({"key": self.key, "rows": self.done + count, "runners": self.runners}),
            )
        except OSError as error:
            raise self._full(str(error)) from error
        self.done += count

    def finish(self) -> Arrays:
        """Record the checksums, rename the directory, and open it."""
        arrays = {
            name: {"shape": [self.rows, *shape], "sha256": sha256_file(self.part / f"{name}.f16")}
            for name, shape in self.shapes.items()
        }
        try:
            write_text(
                self.part / "meta.json",
                json.dumps({"key": self.key, "runners": self.runners, "arrays": arrays}, indent=1),
            )
        except OSError as error:
            raise self._full(str(error)) from error
        (self.part / "done.json").unlink(missing_ok=True)
        self.part.rename(self.directory)
        opened = open_features(self.directory)
        if opened is None:
            raise InputError(
                f"{self.directory} changed while it was written; is another program writing there?"
            )
        return opened

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) * DTYPE.itemsize

    def _resume(self) -> int:
        try:
            state = json.loads((self.part / "done.json").read_text())
            done = int(state["rows"]) if state["key"] == self.key else 0
            earlier = [str(name) for name in state.get("runners", ())] if done else []
            self.runners = sorted({*earlier, *self.runners})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            done = 0
        for name in self.shapes:
            path = self.part / f"{name}.f16"
            path.touch()
            done = min(done, path.stat().st_size // self._row_bytes(name))
        for name in self.shapes:  # a block that was half written when the process died is cut off
            with (self.part / f"{name}.f16").open("r+b") as stream:
                stream.truncate(done * self._row_bytes(name))
        return done

    def _full(self, reason: str) -> InputError:
        return InputError(
            f"features cannot be written to {self.part} ({reason}); free some room or give "
            "--data.cache_dir another disk"
        )
