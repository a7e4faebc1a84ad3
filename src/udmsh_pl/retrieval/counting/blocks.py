"""The database as ``pairs.py`` reads it: blocks of 64 items, plane by plane, even codes first.

The distance of two codes has the parity of the sum of their set bits. So once even and odd codes
are apart, the parity of a distance is known from the query alone. A plane is one byte of the code
or of the label mask, of 64 items in a row: a cache line and a vector register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.codes import Bytes, Words, popcounts

ITEMS = 64  # items of a block
CODE_PLANES = 8  # the loops take this many planes of a code at a time,
LABEL_PLANES = 4  # and this many planes of labels: pad to a multiple


@dataclass(frozen=True)
class Blocks:
    """Queries and database side by side in one layout.

    ``database`` is uint8 [blocks, planes, 64], ``codes`` uint8 [Q, planes], labels after codes in
    both. Even codes are blocks ``parts[0]`` to ``parts[1]``, odd ones go on to ``parts[2]``;
    ``idle`` items of code 0 fill up each part's last block. ``odd`` is 1 for an odd query, int64
    [Q]. Queries are filled up with an idle one to an even number.
    """

    database: Bytes
    parts: npt.NDArray[np.int64]
    idle: npt.NDArray[np.int64]
    codes: Bytes
    odd: npt.NDArray[np.int64]
    code_planes: int

    @staticmethod
    def of(query: Words, database: Words, query_labels: Words, database_labels: Words) -> Blocks:
        """Lay out uint64 words [N, W] of codes and of label masks."""
        widths = [
            _used(query, database, CODE_PLANES),
            _used(query_labels, database_labels, LABEL_PLANES),
        ]
        codes = np.zeros((len(query) + len(query) % 2, sum(widths)), dtype=np.uint8)
        codes[: len(query)] = _octets(query, query_labels, widths)
        odd = np.zeros(len(codes), dtype=np.int64)
        odd[: len(query)] = popcounts(query) & 1
        parity = popcounts(database) & 1
        rows = [np.flatnonzero(parity == part) for part in range(2)]
        halves = [_octets(database[some], database_labels[some], widths) for some in rows]
        parts = np.cumsum([0] + [-(-len(half) // ITEMS) for half in halves])
        blocks = aligned_zeros((int(parts[2]), sum(widths), ITEMS), np.uint8)
        for part, half in enumerate(halves):
            full = len(half) // ITEMS
            target = blocks[parts[part] : parts[part + 1]]
            target[:full] = (
                half[: full * ITEMS].reshape(full, ITEMS, sum(widths)).transpose(0, 2, 1)
            )
            if full < len(target):
                target[full, :, : len(half) - full * ITEMS] = half[full * ITEMS :].T
        idle = np.diff(parts) * ITEMS - [len(half) for half in halves]
        return Blocks(blocks, parts, idle, codes, odd, widths[0])


def aligned_zeros(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line: a vector of 64 bytes then never lies across two."""
    dtype = np.dtype(kind)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _used(first: Words, second: Words, group: int) -> int:
    """Bytes up to the last that is not zero throughout, at least one, a multiple of ``group``."""
    whole = np.bitwise_or.reduce(first, axis=0) | np.bitwise_or.reduce(second, axis=0)
    used = np.flatnonzero(whole.view(np.uint8))
    return -(-(int(used[-1]) + 1 if len(used) else 1) // group) * group


def _octets(words: Words, labels: Words, widths: list[int]) -> Bytes:
    """Bytes of codes and of label masks, ``widths`` of them, side by side."""
    joined = np.zeros((len(words), sum(widths)), dtype=np.uint8)
    for start, width, source in ((0, widths[0], words), (widths[0], widths[1], labels)):
        octets = np.ascontiguousarray(source).view(np.uint8)[:, :width]
        joined[:, start : start + octets.shape[1]] = octets
    return joined
