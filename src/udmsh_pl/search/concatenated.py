"""Rows of several segments as one sequence, fetched from mapped files when they are asked for."""

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError

Int64s = NDArray[np.int64]


class Concatenated(Sequence[Any]):
    """Several sequences as one."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, row: Any) -> Any:
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part][row - (int(self.ends[part - 1]) if part else 0)]

    def __iter__(self) -> Any:
        for part in self.parts:
            yield from part


class ConcatenatedArray:
    """Arrays [n, ...] of segments as one, each with the rows of it that count, None for all: what
    is asked for is copied, the rest stays on the disk.
    """

    def __init__(self, parts: Sequence[NDArray[Any]], kept: Sequence[Int64s | None]) -> None:
        self.parts, self.kept = parts, kept
        pairs = zip(parts, kept, strict=True)
        self.ends = np.cumsum([len(part if rows is None else rows) for part, rows in pairs])
        self.dtype = parts[0].dtype
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole: NDArray[Any] = self[np.arange(len(self))]
        return whole if dtype is None else whole.astype(dtype)

    def __getitem__(self, item: Any) -> Any:
        """A field of all rows by its name; a row, a slice of rows, or rows by their numbers."""
        if isinstance(item, str):
            pairs = zip(self.parts, self.kept, strict=True)
            fields = [part[item] if rows is None else part[item][rows] for part, rows in pairs]
            return np.concatenate(fields)
        if isinstance(item, slice):
            item = np.arange(*item.indices(len(self)))
        rows = np.atleast_1d(np.asarray(item, dtype=np.int64))
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, rows, side="right")
        for part in np.unique(owner).tolist():
            mine, kept = owner == part, self.kept[part]
            own = rows[mine] - (self.ends[part - 1] if part else 0)
            found[mine] = self.parts[part][own if kept is None else kept[own]]
        return found if np.ndim(item) else found[0]


def concatenated(parts: Sequence[Any]) -> ConcatenatedArray:
    """One array of arrays and of concatenated ones."""
    arrays: list[NDArray[Any]] = []
    kept: list[Int64s | None] = []
    for part in parts:
        inner = isinstance(part, ConcatenatedArray)
        arrays += part.parts if inner else [part]
        kept += part.kept if inner else [None]
    return ConcatenatedArray(arrays, kept)


class Names(Sequence[Any]):
    """Names of chosen rows of a file of ``total``, a zero byte between, decoded when asked for."""

    def __init__(self, path: Path, total: int, rows: Int64s) -> None:
        self.path, self.total, self.rows, self._content = path, total, rows, _mapped(path)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _ends(self) -> Int64s:
        zeros = np.flatnonzero(self._content == 0).astype(np.int64)
        if len(zeros) + 1 != max(self.total, 1):
            damage = "is damaged (another number of names); build the index anew"
            raise InputError(f"{self.path} {damage}")
        return np.append(zeros, np.int64(len(self._content)))

    def __getitem__(self, row: Any) -> Any:
        row = self.rows[row]
        start = self._ends[row - 1] + 1 if row else 0
        return _text(self._content[start : self._ends[row]])

    def __iter__(self) -> Any:
        if self._ends is not None and len(self.rows):
            every = _text(self._content).split("\0")
            yield from (every[row] for row in self.rows.tolist())


class Thumbnails(Sequence[Any]):
    """Thumbnails of chosen rows of a mapped file, by where each starts and ends, and its CRC-32."""

    def __init__(self, path: Path, starts: Int64s, crcs: NDArray[np.uint32], rows: Int64s) -> None:
        self.path, self.starts, self.crcs, self.rows = path, starts, crcs, rows
        self._content = _mapped(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        row = self.rows[row]
        found = self._content[self.starts[row] : self.starts[row + 1]].tobytes()
        if zlib.crc32(found) != self.crcs[row]:
            raise InputError(f"{self.path} is altered; build the index anew")
        return found


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped at once: a later writer may remove the file."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


def _text(content: NDArray[np.uint8]) -> str:
    return content.tobytes().decode("utf-8", "surrogateescape")
