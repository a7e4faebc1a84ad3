"""The loops of inverted lists, compiled by numba. Centres come as planes of words, [W, L], so that
one register holds several centres; codes as rows, [N, W].
"""

# mypy: allow-untyped-decorators

from typing import Any

import numpy as np
from numba import njit

from udmsh_pl.retrieval.counting.compiled import popcount, wide_vectors

TILE = 256  # codes whose distances are computed before one of them is looked at
FAR = 1 << 20  # more than any distance


@njit(nogil=True, cache=True, boundscheck=False)
def to_planes(code: Any, planes: Any, start: int, stop: int, out: Any) -> None:
    """Distances of one code [W] to the columns ``start`` to ``stop`` of planes [W, L]."""
    wide_vectors()
    for j in range(stop - start):
        out[j] = 0
    for w in range(planes.shape[0]):
        word, plane = code[w], planes[w, start:stop]
        for j in range(stop - start):
            out[j] += np.int32(popcount(plane[j] ^ word))


@njit(nogil=True, cache=True, boundscheck=False)
def first_least(values: Any, count: int) -> int:
    """Place of the least of the first ``count`` values, the first at a tie."""
    least = values[0]
    for j in range(count):
        least = min(least, values[j])
    for j in range(count):
        if values[j] == least:
            return j
    return 0


@njit(nogil=True, cache=True, boundscheck=False)
def assign(codes: Any, heads: Any, starts: Any, centres: Any, near: int, out: Any) -> None:
    """The nearest centre of each code [N, W] among those of its ``near`` nearest heads; centres of
    head h are the columns ``starts[h]`` to ``starts[h + 1]``.
    """
    to_heads = np.empty(heads.shape[1], np.int32)
    to_own = np.empty(np.max(starts[1:] - starts[:-1]), np.int32)
    for i in range(len(codes)):
        to_planes(codes[i], heads, 0, heads.shape[1], to_heads)
        best, least = 0, FAR
        for _ in range(near):
            head = first_least(to_heads, len(to_heads))
            to_heads[head] = FAR
            start, stop = starts[head], starts[head + 1]
            if start == stop:
                continue
            to_planes(codes[i], centres, start, stop, to_own)
            j = first_least(to_own, stop - start)
            if to_own[j] < least:
                best, least = start + j, to_own[j]
        out[i] = best


@njit(nogil=True, cache=True, boundscheck=False)
def scatter(
    codes: Any, first: int, lists: Any, taken: Any, cursors: Any, out: Any, rows: Any
) -> None:
    """Put those of codes [N, W], which are rows ``first`` and on, whose list is of the range
    ``taken`` behind the last of their lists.
    """
    for i in range(len(codes)):
        if not taken[0] <= lists[i] < taken[1]:
            continue
        place = cursors[lists[i]]
        cursors[lists[i]] += 1
        for w in range(codes.shape[1]):
            out[place, w] = codes[i, w]
        rows[place] = first + i


@njit(nogil=True, cache=True, boundscheck=False)
def nearest_lists(code: Any, centres: Any, probes: int) -> Any:
    """The ``probes`` lists whose centres are nearest, nearest first."""
    lists = centres.shape[1]
    distances = np.empty(lists, np.int32)
    to_planes(code, centres, 0, lists, distances)
    places = np.zeros(64 * centres.shape[0] + 2, np.int64)
    for j in range(lists):
        places[distances[j] + 1] += 1
    for d in range(1, len(places)):
        places[d] += places[d - 1]
    order = np.empty(probes, np.int64)
    for j in range(lists):
        if places[distances[j]] < probes:
            order[places[distances[j]]] = j
        places[distances[j]] += 1
    return order


@njit(nogil=True, cache=True, boundscheck=False)
def scan(code: Any, order: Any, starts: Any, codes: Any, rows: Any, count: int, room: int) -> Any:
    """Distances and rows of the ``count`` nearest codes in the lists of ``order`` and of those as
    near as the last of them, in no order.

    ``room``, more than 2 * count, bounds what is kept; beyond it some that tie with the last are
    left out.
    """
    wide_vectors()
    words = codes.shape[1]
    tile = np.empty(TILE, np.int32)
    kept = np.empty(room, np.int32)
    kept_rows = np.empty(room, np.int64)
    seen = np.zeros(64 * words + 1, np.int64)  # kept codes by distance
    size, within, limit = 0, 0, 64 * words  # within: kept codes no farther than limit
    for place in order:
        for start in range(starts[place], starts[place + 1], TILE):
            length = min(TILE, starts[place + 1] - start)
            part = codes[start : start + length]
            if words == 1:
                word, column = code[0], part[:, 0]
                for j in range(length):
                    tile[j] = np.int32(popcount(column[j] ^ word))
            else:
                for j in range(length):
                    distance = np.int32(0)
                    for w in range(words):
                        distance += np.int32(popcount(part[j, w] ^ code[w]))
                    tile[j] = distance
            least = tile[0]
            for j in range(length):
                least = min(least, tile[j])
            if least > limit:
                continue
            for j in range(length):
                if tile[j] > limit:
                    continue
                if size == room:
                    size, ties = 0, 0
                    for n in range(room):
                        ties += kept[n] == limit
                        # what is nearer than the limit is less than count, so this makes room
                        if kept[n] < limit or (kept[n] == limit and ties <= count):
                            kept[size], kept_rows[size] = kept[n], kept_rows[n]
                            size += 1
                    within -= seen[limit] - min(ties, count)
                    seen[limit] = min(ties, count)
                kept[size], kept_rows[size] = tile[j], rows[start + j]
                size += 1
                seen[tile[j]] += 1
                within += 1
                while within - seen[limit] >= count:
                    within -= seen[limit]
                    limit -= 1
    chosen = kept[:size] <= limit
    return kept[:size][chosen], kept_rows[:size][chosen]
