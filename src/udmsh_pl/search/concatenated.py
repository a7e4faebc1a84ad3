"""Rows of several segments as one sequence, fetched from mapped files when they are asked for."""

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

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[row] for row in range(*item.indices(len(self)))]
        part = int(np.searchsorted(self.ends, item, side="right"))
        return self.parts[part][item - (int(self.ends[part - 1]) if part else 0)]

    def __iter__(self) -> Any:
        for part in self.parts:
            yield from part


class ConcatenatedArray:
    """Arrays of several segments as one: what is asked for is copied, the rest stays on the disk.

    Args:
        parts: arrays [n, ...] of one dtype and shape but for n
        kept: rows of each part that count; None for all
    """

    def __init__(self, parts: Sequence[NDArray[Any]], kept: Sequence[Int64s | None]) -> None:
        self.parts, self.kept = parts, kept
        lengths = [
            len(part) if rows is None else len(rows) for part, rows in zip(parts, kept, strict=True)
        ]
        self.ends = np.cumsum(lengths)
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


def concatenated(parts: Sequence[Any]) -> Any:
    """One array of arrays and of concatenated ones."""
    flat = [
        pair
        for part in parts
        for pair in (
            zip(part.parts, part.kept, strict=True)
            if isinstance(part, ConcatenatedArray)
            else [(part, None)]
        )
    ]
    return ConcatenatedArray([array for array, _ in flat], [kept for _, kept in flat])


class Names(Sequence[str]):
    """Names of a segment's chosen rows in a file with a zero byte between, decoded when asked for.

    Args:
        path: the file
        total: names in it
        rows: those that count
    """

    def __init__(self, path: Path, total: int, rows: Int64s) -> None:
        self.path, self.total, self.rows = path, total, rows
        # mapped at once: a later writer may remove the file
        self._content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, "u1")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _ends(self) -> Int64s:
        zeros = np.flatnonzero(self._content == 0).astype(np.int64)
        ends = np.append(zeros, np.int64(len(self._content)))
        if len(ends) != max(self.total, 1):
            raise InputError(
                f"{self.path} is damaged (another number of names); build the index anew"
            )
        return ends

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[row] for row in range(*item.indices(len(self)))]
        row = self.rows[item]
        start = self._ends[row - 1] + 1 if row else 0
        return _text(self._content[start : self._ends[row]].tobytes())

    def __iter__(self) -> Any:
        if self._ends is not None and len(self.rows):
            every = _text(self._content.tobytes()).split("\0")
            yield from (every[row] for row in self.rows.tolist())


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
