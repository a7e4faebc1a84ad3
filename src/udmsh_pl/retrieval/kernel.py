"""The one pass over the database: for each query, how many items, and how many relevant ones, at each distance.

The counts are all that exact evaluation needs (see ties.py): no sort, no ranked list, memory of ``2 (bits + 1)`` counters
a query, and counts of database shards add up. Three ways give equal integers: numba (compiled), NumPy (fallback), torch
(CUDA).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.codes import Words

try:
    if os.environ.get("UDMSH_NO_NUMBA") == "1":
        raise ImportError("numba is switched off by UDMSH_NO_NUMBA")
    from udmsh_pl.retrieval import compiled
except ImportError:  # numba has no release for a new Python or platform for a while
    compiled = None  # type: ignore[assignment]

Counts = npt.NDArray[np.int64]
BLOCK = 256  # queries that one task of the thread pool counts


def count_distances(
    query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int, threads: int | None = None
) -> tuple[Counts, Counts]:
    """Count items and relevant items at each Hamming distance.

    Args:
        query: uint64 [Q, W], codes padded to words (``code_words``)
        database: uint64 [N, W]
        query_labels: uint64 [Q, V], labels as bit masks (``label_words``); relevant means a label in common
        database_labels: uint64 [N, V]
        bits: code length
        threads: how many to use; None for all cores

    Returns:
        ``(items, relevant)``, int64 [Q, bits + 1] each.
    """
    if compiled is None:
        return _numpy_counts(query, database, query_labels, database_labels, bits)
    columns = [np.ascontiguousarray(words.T) for words in (query, database, query_labels, database_labels)]
    counts = np.zeros((len(query), 2 * (bits + 1)), dtype=np.int64)
    workers = threads or os.cpu_count() or 1

    def run(start: int) -> None:
        stop = min(start + BLOCK, len(query))
        compiled.count_block(columns[0], columns[1], columns[2], columns[3], bits, start, stop, counts)

    starts = range(0, len(query), BLOCK)
    if workers == 1 or len(starts) == 1:
        for start in starts:
            run(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, starts))
    return _split(counts)


def id_stable_positions(
    query: Words, database: Words, query_labels: Words, database_labels: Words, items: Counts
) -> list[npt.NDArray[np.int64]]:
    """Places (1-based, ascending) of each query's relevant items when ties are ordered by database row.

    No sort of the database: the place of an item is the number of nearer ones plus those at its distance before it.
    """
    nearer = np.cumsum(items, axis=1) - items
    places = []
    for row in range(len(query)):
        distances = _distances(query[row], database)
        relevant = np.flatnonzero((database_labels & query_labels[row]).any(axis=1))
        if compiled is not None:
            found = compiled.places(distances, relevant, nearer[row].copy())
        else:
            order = np.argsort(distances, kind="stable")
            rank = np.empty(len(order), dtype=np.int64)
            rank[order] = np.arange(1, len(order) + 1)
            found = rank[relevant]
        places.append(np.sort(found))
    return places


def _distances(code: Words, database: Words) -> npt.NDArray[np.int64]:
    return np.bitwise_count(database ^ code).sum(axis=1, dtype=np.int64)


def _numpy_counts(
    query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int
) -> tuple[Counts, Counts]:
    counts = np.empty((len(query), 2 * (bits + 1)), dtype=np.int64)
    for row in range(len(query)):
        relevant = (database_labels & query_labels[row]).any(axis=1)
        counts[row] = np.bincount(2 * _distances(query[row], database) + relevant, minlength=2 * (bits + 1))
    return _split(counts)


def _split(counts: Counts) -> tuple[Counts, Counts]:
    relevant = np.ascontiguousarray(counts[:, 1::2])
    return counts[:, ::2] + relevant, relevant
