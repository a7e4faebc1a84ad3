"""Loops over the database one query at a time, compiled by numba; used by ``kernel.py``.

Codes and labels come as planes of bytes ([planes, items]): a vector register then holds eight times
as many items as it would hold 64-bit words, and every processor has a fast popcount of bytes. Most
counting is done by ``pairs.py``.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# items whose bins are computed before they are counted: they stay in the first-level cache
TILE = 2048
# planes of codes and of labels that a loop takes at a time: pad to a multiple
CODE_PLANES, LABEL_PLANES = 8, 4


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of an unsigned integer, in its own type, by one instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), emit


@intrinsic
def wide_vectors(typing_context: Any) -> Any:
    """Let LLVM use 512-bit vectors in the calling function, which it avoids by default."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite's own add() takes flags only, not name=value
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), emit


@njit(nogil=True, cache=True, boundscheck=False)
def distances(query, database, row, start, count, out):
    """Hamming distances of query ``row`` to ``count`` items from ``start`` on, into ``out``."""
    wide_vectors()
    end = start + count
    for p in range(0, query.shape[0], 8):
        c0, c1, c2, c3 = query[p, row], query[p + 1, row], query[p + 2, row], query[p + 3, row]
        c4, c5, c6, c7 = query[p + 4, row], query[p + 5, row], query[p + 6, row], query[p + 7, row]
        w0, w1 = database[p, start:end], database[p + 1, start:end]
        w2, w3 = database[p + 2, start:end], database[p + 3, start:end]
        w4, w5 = database[p + 4, start:end], database[p + 5, start:end]
        w6, w7 = database[p + 6, start:end], database[p + 7, start:end]
        if p == 0:
            for j in range(count):
                low = (
                    popcount(w0[j] ^ c0)
                    + popcount(w1[j] ^ c1)
                    + popcount(w2[j] ^ c2)
                    + popcount(w3[j] ^ c3)
                )
                high = (
                    popcount(w4[j] ^ c4)
                    + popcount(w5[j] ^ c5)
                    + popcount(w6[j] ^ c6)
                    + popcount(w7[j] ^ c7)
                )
                out[j] = low + high
        else:
            for j in range(count):
                low = (
                    popcount(w0[j] ^ c0)
                    + popcount(w1[j] ^ c1)
                    + popcount(w2[j] ^ c2)
                    + popcount(w3[j] ^ c3)
                )
                high = (
                    popcount(w4[j] ^ c4)
                    + popcount(w5[j] ^ c5)
                    + popcount(w6[j] ^ c6)
                    + popcount(w7[j] ^ c7)
                )
                out[j] += low + high


@njit(nogil=True, cache=True, boundscheck=False)
def shared_labels(query, database, row, start, count, out):
    """Not zero, into ``out``, where an item from ``start`` on shares a label with query ``row``."""
    wide_vectors()
    end = start + count
    for p in range(0, query.shape[0], 4):
        m0, m1, m2, m3 = query[p, row], query[p + 1, row], query[p + 2, row], query[p + 3, row]
        w0, w1 = database[p, start:end], database[p + 1, start:end]
        w2, w3 = database[p + 2, start:end], database[p + 3, start:end]
        if p == 0:
            for j in range(count):
                out[j] = (w0[j] & m0) | (w1[j] & m1) | (w2[j] & m2) | (w3[j] & m3)
        else:
            for j in range(count):
                out[j] |= (w0[j] & m0) | (w1[j] & m1) | (w2[j] & m2) | (w3[j] & m3)


@njit(nogil=True, cache=True, boundscheck=False)
def long_bins(query, database, query_labels, database_labels, row, start, count, near, shared, out):
    """``2 * distance + relevant`` of one query, any number of planes, into ``out``.

    ``near`` and ``shared`` are scratch.
    """
    wide_vectors()
    distances(query, database, row, start, count, near)
    shared_labels(query_labels, database_labels, row, start, count, shared)
    for j in range(count):
        out[j] = np.uint16(2) * np.uint16(near[j]) + np.uint16(shared[j] != 0)


@njit(nogil=True, cache=True, boundscheck=False)
def count_each(query, database, query_labels, database_labels, first, last, counts):
    """Add the bins ``2 * distance + relevant`` to ``counts``, for codes of 256 bits on.

    ``counts`` is int64 [Q, 2 (bits + 1)] or wider.
    """
    items = database.shape[1]
    near, shared = np.zeros(TILE, query.dtype), np.zeros(TILE, np.uint8)
    bins = np.zeros(TILE, np.uint16)
    for start in range(0, items, TILE):
        count = min(TILE, items - start)
        for row in range(first, last):
            long_bins(
                query,
                database,
                query_labels,
                database_labels,
                row,
                start,
                count,
                near,
                shared,
                bins,
            )
            line = counts[row]
            for j in range(count):
                line[bins[j]] += 1


@njit(nogil=True, cache=True, boundscheck=False)
def stable_ranks(query, database, query_labels, database_labels, row, items, relevant, ranks):
    """Ranks of the relevant items, from 1 and ascending, into ``ranks``, ties by database row.

    ``items`` and ``relevant``, int64 [bits + 1], are how many are nearer than each distance; both
    are used up. ``ranks`` has one more cell than there are relevant items.
    """
    near, shared = np.zeros(TILE, query.dtype), np.zeros(TILE, np.uint8)
    bins = np.zeros(TILE, np.uint16)
    for start in range(0, database.shape[1], TILE):
        count = min(TILE, database.shape[1] - start)
        long_bins(
            query, database, query_labels, database_labels, row, start, count, near, shared, bins
        )
        for j in range(count):
            distance, hit = bins[j] >> 1, bins[j] & 1
            items[distance] += 1
            following = relevant[distance]
            # written in either case: a branch on the relevance would be guessed wrong every few
            # items
            ranks[following] = items[distance] if hit else ranks[following]
            relevant[distance] = following + hit


@njit(nogil=True, cache=True, boundscheck=False)
def count_levels(query, database, query_labels, database_labels, first, last, counts):
    """Add to ``counts``, int64 [Q, bits + 1, levels], the items by distance and shared labels.

    ``levels`` - 1 shared labels or more are one level.

    Codes and labels come as uint64 [words, items].
    """
    items, levels = database.shape[1], np.uint64(counts.shape[2])
    bins, shared = np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64)
    for start in range(0, items, TILE):
        count = min(TILE, items - start)
        for row in range(first, last):
            bins[:] = np.uint64(0)
            shared[:] = np.uint64(0)
            for w in range(query.shape[0]):
                code, words = query[w, row], database[w, start : start + count]
                for j in range(count):
                    bins[j] += popcount(words[j] ^ code)
            for v in range(query_labels.shape[0]):
                mask, labels = query_labels[v, row], database_labels[v, start : start + count]
                for j in range(count):
                    shared[j] += popcount(labels[j] & mask)
            line = counts[row].reshape(-1)
            for j in range(count):
                line[bins[j] * levels + min(shared[j], levels - np.uint64(1))] += 1
