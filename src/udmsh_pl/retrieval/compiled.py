"""The counting loops, compiled by numba; ``kernel.py`` says what they count.

A histogram's cost is its scattered increments, not the popcounts, which vectorise. So two queries share one increment:
the pair of their bins is one cell of a joint table, which is summed up to both histograms now and then. The table's
cells are 16 bits wide, so that it stays in the first-level cache at 64 bits, and it is emptied before a cell can
overflow. Codes and labels come as planes of bytes ([planes, items]): a vector register then holds eight times as many
items as it would hold 64-bit words, and every processor has a fast popcount of bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.extending import intrinsic

TILE = 2048  # items whose bins are computed before they are counted: they stay in the first-level cache
FLUSH = 65_536 - TILE  # items a joint table can take before a 16-bit cell might overflow
JOINT_BINS = 260  # two queries share a table up to this many bins each (128 bits); beyond, it leaves the second cache
CODE_PLANES = 8  # the loops take this many planes of a code at a time,
LABEL_PLANES = 4  # and this many planes of labels: pad to a multiple


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of an unsigned integer, in its own type, by the processor's own instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), emit


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def distances(query, database, row, start, count, out):  # type: ignore[no-untyped-def]
    """Hamming distances of query ``row`` to ``count`` items from ``start`` on, into ``out``."""
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
                low = popcount(w0[j] ^ c0) + popcount(w1[j] ^ c1) + popcount(w2[j] ^ c2) + popcount(w3[j] ^ c3)
                high = popcount(w4[j] ^ c4) + popcount(w5[j] ^ c5) + popcount(w6[j] ^ c6) + popcount(w7[j] ^ c7)
                out[j] = low + high
        else:
            for j in range(count):
                low = popcount(w0[j] ^ c0) + popcount(w1[j] ^ c1) + popcount(w2[j] ^ c2) + popcount(w3[j] ^ c3)
                high = popcount(w4[j] ^ c4) + popcount(w5[j] ^ c5) + popcount(w6[j] ^ c6) + popcount(w7[j] ^ c7)
                out[j] += low + high


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def shared_labels(query, database, row, start, count, out):  # type: ignore[no-untyped-def]
    """Not zero, into ``out``, where one of ``count`` items from ``start`` on shares a label with query ``row``."""
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


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def count_pairs(query, database, query_labels, database_labels, bits, first, last, counts, cells):  # type: ignore[no-untyped-def]
    """Add the bins ``2 * distance + relevant`` of queries ``first`` to ``last`` to ``counts``, int64 [Q, 2 (bits + 1)].

    Two queries at a time; ``cells [TILE]`` is scratch whose type holds ``(2 (bits + 1))^2``.
    """
    items, bins = database.shape[1], 2 * (bits + 1)
    ours, theirs = np.zeros(TILE, query.dtype), np.zeros(TILE, query.dtype)
    ours_shared, theirs_shared = np.zeros(TILE, np.uint8), np.zeros(TILE, np.uint8)
    joint, columns = np.zeros(bins * bins, np.uint16), np.zeros(bins, np.uint32)
    for begin in range(0, items, FLUSH):  # outside the queries: this part of the database stays in the second cache
        end = min(items, begin + FLUSH)
        for row in range(first, last, 2):
            other = min(row + 1, last - 1)
            joint[:] = 0
            for start in range(begin, end, TILE):
                count = min(TILE, end - start)
                distances(query, database, row, start, count, ours)
                distances(query, database, other, start, count, theirs)
                shared_labels(query_labels, database_labels, row, start, count, ours_shared)
                shared_labels(query_labels, database_labels, other, start, count, theirs_shared)
                for j in range(count):
                    mine = 2 * np.int32(ours[j]) + np.int32(ours_shared[j] != 0)
                    cells[j] = mine * np.int32(bins) + 2 * np.int32(theirs[j]) + np.int32(theirs_shared[j] != 0)
                for j in range(count):
                    joint[cells[j]] += np.uint16(1)
            columns[:] = 0
            for mine in range(bins):
                line = joint[mine * bins : (mine + 1) * bins]
                total = np.uint32(0)
                for its in range(bins):
                    total += np.uint32(line[its])
                    columns[its] += np.uint32(line[its])
                counts[row, mine] += total
            if other != row:
                for its in range(bins):
                    counts[other, its] += columns[its]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def count_each(query, database, query_labels, database_labels, bits, first, last, counts):  # type: ignore[no-untyped-def]
    """Do what ``count_pairs`` does, one query at a time: for codes whose joint table would be too large."""
    items, bins = database.shape[1], 2 * (bits + 1)
    ours, shared = np.zeros(TILE, query.dtype), np.zeros(TILE, np.uint8)
    cells = np.zeros(TILE, np.uint32)
    # neighbours go to different copies, so that an increment seldom waits for the one before it
    copies = np.zeros((2, bins), np.int64)
    for row in range(first, last):
        copies[:] = 0
        for start in range(0, items, TILE):
            count = min(TILE, items - start)
            distances(query, database, row, start, count, ours)
            shared_labels(query_labels, database_labels, row, start, count, shared)
            for j in range(count):
                cells[j] = 2 * np.uint32(ours[j]) + np.uint32(shared[j] != 0)
            for j in range(0, count - 1, 2):
                copies[0, cells[j]] += 1
                copies[1, cells[j + 1]] += 1
            if count % 2:
                copies[0, cells[count - 1]] += 1
        counts[row] += copies[0] + copies[1]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def count_levels(query, database, query_labels, database_labels, first, last, counts):  # type: ignore[no-untyped-def]
    """Add up items by distance and by shared labels, at most ``levels`` - 1; counts is int64 [Q, bits + 1, levels].

    Codes and labels come as uint64 [words, items].
    """
    top = np.uint64(counts.shape[2] - 1)
    for row in range(first, last):
        for item in range(database.shape[1]):
            distance, shared = np.uint64(0), np.uint64(0)
            for w in range(query.shape[0]):
                distance += popcount(query[w, row] ^ database[w, item])
            for v in range(query_labels.shape[0]):
                shared += popcount(query_labels[v, row] & database_labels[v, item])
            counts[row, distance, min(shared, top)] += 1


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def stable_places(query, database, query_labels, database_labels, row, items, relevant, places):  # type: ignore[no-untyped-def]
    """1-based places of the relevant items, ascending, into ``places`` when ties are ordered by database row.

    ``items`` and ``relevant``, int64 [bits + 1], are how many are nearer than each distance; both are used up.
    """
    for item in range(database.shape[1]):
        distance = np.uint64(0)
        for w in range(query.shape[0]):
            distance += popcount(query[w, row] ^ database[w, item])
        shared = np.uint64(0)
        for v in range(query_labels.shape[0]):
            shared |= query_labels[v, row] & database_labels[v, item]
        items[distance] += 1
        if shared:
            places[relevant[distance]] = items[distance]
            relevant[distance] += 1
