"""The loop of gradecount.py, compiled by numba. Arrays of words are [words, items]: one word of many items is a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

TILE = 512  # items whose bins are computed before they are counted: they stay in the first-level cache
BLOCK = 8  # queries that a tile serves before the next one is read


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of a uint64, by the processor's own instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), emit


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def bins_of(words, labels, codes, masks, levels, bins, shared):  # type: ignore[no-untyped-def]
    """``levels * distance + min(shared labels, levels - 1)`` of each item, uint64, into ``bins``."""
    top = np.uint64(levels - 1)
    bins[:] = np.uint64(0)
    shared[:] = np.uint64(0)
    for w in range(words.shape[0]):
        code, row = codes[w], words[w]
        for j in range(len(row)):
            bins[j] += popcount(row[j] ^ code)
    for v in range(labels.shape[0]):
        mask, row = masks[v], labels[v]
        for j in range(len(row)):
            shared[j] += popcount(row[j] & mask)
    for j in range(len(bins)):
        bins[j] = bins[j] * np.uint64(levels) + min(shared[j], top)


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def count_block(codes, database, masks, labels, levels, first, last, counts):  # type: ignore[no-untyped-def]
    """Add the bins of queries ``first`` to ``last`` to ``counts [Q, levels (bits + 1)]``."""
    items = database.shape[1]
    bins, shared = np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64)
    for block in range(first, last, BLOCK):
        for start in range(0, items, TILE):
            count = min(TILE, items - start)
            words, given = database[:, start : start + count], labels[:, start : start + count]
            for row in range(block, min(last, block + BLOCK)):
                bins_of(words, given, codes[:, row], masks[:, row], levels, bins[:count], shared[:count])
                line = counts[row]
                for j in range(count):
                    line[bins[j]] += 1
