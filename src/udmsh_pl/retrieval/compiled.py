"""The counting loops, compiled by numba; ``kernel.py`` says what they count.

A histogram's cost is its scattered increments, not the popcounts, which vectorise. So two queries share one increment: the
pair of their bins is one cell of a joint table, which is summed up to both histograms now and then. The table's cells are
16 bits wide, so that it stays in the first-level cache at 64 bits, and it is emptied before a cell can overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

TILE = 2048  # items whose bins are computed before they are counted: they stay in the first-level cache
FLUSH = 65_536 - TILE  # items a joint table can take before a 16-bit cell might overflow
JOINT_BINS = 256  # two queries share a table up to this many bins each (16-bit cell numbers)


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of a uint64, by the processor's own instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), emit


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def bins_of(query, database, query_labels, database_labels, row, start, count, out, shared):  # type: ignore[no-untyped-def]
    """``2 * distance + relevant`` of ``count`` items from ``start`` on, uint64, into ``out``."""
    one = np.uint64(1)
    code, mask = query[0, row], query_labels[0, row]
    words, labels = database[0, start : start + count], database_labels[0, start : start + count]
    if query.shape[0] == 1 and query_labels.shape[0] == 1:
        for j in range(count):
            out[j] = (popcount(words[j] ^ code) << one) + np.uint64((labels[j] & mask) != 0)
        return
    for j in range(count):
        out[j] = popcount(words[j] ^ code)
        shared[j] = labels[j] & mask
    for w in range(1, query.shape[0]):
        code, words = query[w, row], database[w, start : start + count]
        for j in range(count):
            out[j] += popcount(words[j] ^ code)
    for v in range(1, query_labels.shape[0]):
        mask, labels = query_labels[v, row], database_labels[v, start : start + count]
        for j in range(count):
            shared[j] |= labels[j] & mask
    for j in range(count):
        out[j] = (out[j] << one) + np.uint64(shared[j] != 0)


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def count_block(query, database, query_labels, database_labels, bits, first, last, counts):  # type: ignore[no-untyped-def]
    """Add the bins of queries ``first`` to ``last`` to ``counts [Q, 2 (bits + 1)]``; arrays are ``[words, items]``."""
    items, bins = database.shape[1], 2 * (bits + 1)
    ours, theirs, shared = np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64)
    cells = np.zeros(TILE, np.uint16)
    if bins > JOINT_BINS:
        for row in range(first, last):
            for start in range(0, items, TILE):
                count = min(TILE, items - start)
                bins_of(query, database, query_labels, database_labels, row, start, count, ours, shared)
                for j in range(count):
                    counts[row, ours[j]] += 1
        return
    joint = np.zeros(bins * bins, np.uint16)
    width = np.uint64(bins)
    for row in range(first, last, 2):
        other = min(row + 1, last - 1)
        for begin in range(0, items, FLUSH):
            end = min(items, begin + FLUSH)
            joint[:] = 0
            for start in range(begin, end, TILE):
                count = min(TILE, end - start)
                bins_of(query, database, query_labels, database_labels, row, start, count, ours, shared)
                bins_of(query, database, query_labels, database_labels, other, start, count, theirs, shared)
                for j in range(count):
                    cells[j] = np.uint16(ours[j] * width + theirs[j])
                for j in range(count):
                    joint[cells[j]] += np.uint16(1)
            for mine in range(bins):
                total = np.int64(0)
                line = joint[mine * bins : (mine + 1) * bins]
                for its in range(bins):
                    value = np.int64(line[its])
                    total += value
                    if other != row:
                        counts[other, its] += value
                counts[row, mine] += total


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def places(distances, relevant, nearer):  # type: ignore[no-untyped-def]
    """1-based places of the ``relevant`` rows when ties are ordered by row; ``nearer [bits + 1]`` is used up."""
    found = np.empty(len(relevant), np.int64)
    following = 0
    for row in range(len(distances)):
        nearer[distances[row]] += 1
        if following < len(relevant) and relevant[following] == row:
            found[following] = nearer[distances[row]]
            following += 1
    return found
