"""The one pass over the database: for each query, items of each relevance at each distance.

The counts are all that exact evaluation needs (see ties.py): no sort, no ranked list, memory of a
few counters a distance and query, and counts of database shards add up. Three ways give equal
integers: numba (compiled), NumPy (fallback), torch (CUDA, cuda.py).
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.codes import Words, popcounts
from udmsh_pl.retrieval.counting.blocks import (
    CODE_PLANES,
    ITEMS,
    LABEL_PLANES,
    Blocks,
    aligned_zeros,
)

compiled: Any = None
if os.environ.get("UDMSH_NO_NUMBA") != "1":
    # numba has no release for a new Python or platform for a while
    with contextlib.suppress(ImportError):
        compiled = importlib.import_module("udmsh_pl.retrieval.counting.compiled")

Counts = npt.NDArray[np.int64]
QUERIES_A_TASK = 256  # of the thread pool, at most


def count_distances(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    threads: int | None = None,
    device: str = "cpu",
) -> tuple[Counts, Counts]:
    """Count items and relevant items at each Hamming distance.

    Args:
        query: uint64 [Q, W], codes padded to words (``code_words``)
        database: uint64 [N, W]
        query_labels: uint64 [Q, V], labels as bit masks (``label_words``); relevant means a label
            in common
        database_labels: uint64 [N, V]
        bits: code length
        threads: how many to use; None for all cores
        device: "cpu", or a CUDA device of torch

    Returns:
        ``(items, relevant)``, int64 [Q, bits + 1] each.
    """
    counts = count_grades(query, database, query_labels, database_labels, bits, 2, threads, device)
    relevant = np.ascontiguousarray(counts[:, :, 1])
    return counts[:, :, 0] + relevant, relevant


def count_grades(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    levels: int,
    threads: int | None = None,
    device: str = "cpu",
) -> Counts:
    """Count items at each Hamming distance by grade: min(number of shared labels, ``levels`` - 1).

    Arguments as of :func:`count_distances`. Returns int64 [Q, bits + 1, levels].
    """
    arrays = (query, database, query_labels, database_labels)
    if device != "cpu":
        from udmsh_pl.retrieval.counting import cuda

        return cuda.count_grades(*arrays, bits, levels, device)
    if compiled is None:
        return _numpy_counts(*arrays, bits, levels)
    if levels > 2:
        return _graded_counts(*arrays, bits, levels, threads)
    # one row more for an odd query's idle companion, one column for the odd distance beside an even
    # number of bits
    counts = np.zeros((len(query) + len(query) % 2, bits + 2, 2), dtype=np.int64)
    if bits < 256:  # half a distance and the relevance then fit a byte
        _count_pairs(*arrays, bits, counts, threads)
        return counts[: len(query), : bits + 1]
    codes = _planes(query, database, np.uint16, CODE_PLANES)
    labels = _planes(query_labels, database_labels, np.uint8, LABEL_PLANES)

    def run(start: int, stop: int) -> None:
        compiled.count_each(*codes, *labels, start, stop, counts.reshape(len(counts), -1))

    in_blocks(len(query), run, threads)
    return counts[: len(query), : bits + 1]


def _count_pairs(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    counts: Counts,
    threads: int | None,
) -> None:
    """Add to ``counts``, [Q + Q % 2, bits + 2, 2]."""
    pairs = importlib.import_module("udmsh_pl.retrieval.counting.pairs")
    laid = Blocks.of(query, database, query_labels, database_labels)
    bins = 2 * (bits // 2 + 1)

    def run(start: int, stop: int) -> None:
        shapes = ((bins * bins,), (pairs.RING, ITEMS), (laid.codes.shape[1], 2, ITEMS))
        scratch = tuple(map(aligned_zeros, shapes, (np.uint16, np.uint16, np.uint8)))
        head = (laid.database, laid.parts, laid.idle, laid.codes, laid.odd)
        pairs.count_pairs(*head, laid.code_planes, bins, start, stop, counts, scratch)

    in_blocks(len(counts), run, threads)


def _planes(first: Words, second: Words, plane: Any, group: int) -> list[npt.NDArray[Any]]:
    """Two uint64 arrays [N, W] as planes [P, N] of a narrower type, without idle planes.

    P is a multiple of ``group``.
    """
    narrow = [np.ascontiguousarray(words).view(plane) for words in (first, second)]
    used = np.flatnonzero(narrow[0].any(axis=0) | narrow[1].any(axis=0))
    count = int(used[-1]) + 1 if len(used) else 1
    planes = [
        np.zeros((-(-count // group) * group, items), dtype=plane)
        for items in (len(first), len(second))
    ]
    for target, words in zip(planes, narrow, strict=True):
        target[:count] = words.T[:count]
    return planes


def each_stable_ranking(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    items: Counts,
    relevant: Counts,
    use: Callable[[int, npt.NDArray[np.int64]], None],
    threads: int | None = None,
) -> None:
    """Call ``use(row, ranks)`` with each query's ranks of relevant items, ties by database row.

    ``ranks``, int64 [relevant items], is 1-based and ascending, and lives until ``use`` returns:
    of all queries it could be gigabytes. No sort of the database: the rank of an item is the
    number of nearer ones plus those at its distance before it. ``items`` and ``relevant`` are what
    :func:`count_distances` gave.
    """
    totals = relevant.sum(axis=1)
    nearer = [np.cumsum(counts, axis=1) - counts for counts in (items, relevant)]
    planes: list[npt.NDArray[Any]] = []
    if compiled is not None:
        plane = np.uint8 if items.shape[1] <= 256 else np.uint16
        planes += _planes(query, database, plane, CODE_PLANES)
        planes += _planes(query_labels, database_labels, np.uint8, LABEL_PLANES)

    def run(start: int, stop: int) -> None:
        scratch = np.zeros(int(totals[start:stop].max(initial=0)) + 1, dtype=np.int64)
        for row in range(start, stop):
            ranks = scratch[: totals[row]]
            if compiled is not None:
                compiled.stable_ranks(*planes, row, nearer[0][row], nearer[1][row], scratch)
            else:
                order = np.argsort(popcounts(database ^ query[row]), kind="stable")
                shared = (database_labels & query_labels[row]).any(axis=1)
                ranks[:] = np.flatnonzero(shared[order]) + 1
            use(row, ranks)

    in_blocks(len(query), run, threads)


def in_blocks(queries: int, run: Callable[[int, int], None], threads: int | None) -> None:
    """Call ``run(start, stop)`` for blocks of queries, on ``threads`` threads (None: all cores)."""
    workers = threads or os.cpu_count() or 1
    size = max(8, min(QUERIES_A_TASK, -(-queries // workers)))
    size += size % 2  # the kernel takes queries in pairs
    bounds = [(start, min(start + size, queries)) for start in range(0, queries, size)]
    if workers == 1 or len(bounds) == 1:
        for start, stop in bounds:
            run(start, stop)
        return
    with ThreadPoolExecutor(workers) as pool:
        for task in [pool.submit(run, start, stop) for start, stop in bounds]:
            task.result()


def _graded_counts(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    levels: int,
    threads: int | None,
) -> Counts:
    planes = [
        np.ascontiguousarray(words.T) for words in (query, database, query_labels, database_labels)
    ]
    counts = np.zeros((len(query), bits + 1, levels), dtype=np.int64)

    def run(start: int, stop: int) -> None:
        compiled.count_levels(*planes, start, stop, counts)

    in_blocks(len(query), run, threads)
    return counts


def _numpy_counts(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    levels: int,
) -> Counts:
    counts = np.empty((len(query), levels * (bits + 1)), dtype=np.int64)
    for row in range(len(query)):
        shared = database_labels & query_labels[row]
        grade = shared.any(axis=1) if levels == 2 else np.minimum(popcounts(shared), levels - 1)
        counts[row] = np.bincount(
            levels * popcounts(database ^ query[row]) + grade, minlength=counts.shape[1]
        )
    return counts.reshape(len(query), bits + 1, levels)
