"""The one pass over the database: for each query, items of each relevance at each distance.

The counts are all that exact evaluation needs (see ties.py): no sort, no ranked list, memory of a
few counters a distance and query, and counts of database shards add up. Three ways give equal
integers: numba (compiled.py), NumPy (where numba is absent), torch (gpu.py).
"""

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.codes import WordArrays, popcounts

Counts = npt.NDArray[np.int64]
QUERIES_A_TASK = 256  # of the thread pool, at most


def count_distances(
    words: WordArrays, bits: int, threads: int | None = None, device: str = "cpu"
) -> tuple[Counts, Counts]:
    """Count items and relevant items at each Hamming distance, int64 [Q, bits + 1] each, on
    ``threads`` threads, None for all cores, or on a CUDA device of torch.
    """
    counts = count_grades(words, bits, 2, threads, device)
    relevant = np.ascontiguousarray(counts[:, :, 1])
    return counts[:, :, 0] + relevant, relevant


def count_grades(
    words: WordArrays, bits: int, levels: int, threads: int | None = None, device: str = "cpu"
) -> Counts:
    """Count items at each Hamming distance by grade: min(number of shared labels, ``levels`` - 1).

    Arguments as of :func:`count_distances`. Returns int64 [Q, bits + 1, levels].
    """
    if device != "cpu":
        from udmsh_pl.retrieval import gpu

        return gpu.count_grades(words, bits, levels, device)
    loops, queries = compiled_loops(), len(words.query)
    if loops is None:
        return _numpy_counts(words, bits, levels)
    # one row more for an odd query's idle companion, one column for the odd distance beside an even
    # number of bits
    counts = np.zeros((queries + queries % 2, bits + 2, levels), dtype=np.int64)
    if levels == 2 and bits < 256:
        laid = loops.Blocks.of(words)
        in_blocks(len(counts), lambda *rows: loops.count_rows(laid, bits, *rows, counts), threads)
    else:
        planes = _planes(words)
        in_blocks(queries, lambda *rows: loops.count_levels(planes, *rows, counts), threads)
    return counts[:queries, : bits + 1]


def compiled_loops() -> Any:
    """The module ``compiled``; None without numba, or if ``UDMSH_NO_NUMBA`` is 1."""
    if os.environ.get("UDMSH_NO_NUMBA") == "1":
        return None
    try:
        return importlib.import_module("udmsh_pl.retrieval.compiled")
    except ImportError:  # numba has no release for a new Python or platform for a while
        return None


def each_stable_ranking(
    words: WordArrays, items: Counts, relevant: Counts, use: Callable[[int, Counts], None],
    threads: int | None = None,
) -> None:  # fmt: skip
    """Call ``use(row, ranks)`` with each query's ranks of relevant items, ties by database row.

    ``ranks``, int64 [relevant items], is 1-based and ascending, and lives until ``use`` returns:
    of all queries it could be gigabytes. No sort of the database: the rank of an item is the
    number of nearer ones plus those at its distance before it. ``items`` and ``relevant`` are the
    results of :func:`count_distances`.
    """
    totals = relevant.sum(axis=1)
    nearer = [np.cumsum(counts, axis=1) - counts for counts in (items, relevant)]
    loops = compiled_loops()
    planes = _planes(words)

    def run(start: int, stop: int) -> None:
        scratch = np.zeros(int(totals[start:stop].max(initial=0)) + 1, dtype=np.int64)
        for row in range(start, stop):
            ranks = scratch[: totals[row]]
            if loops:
                loops.stable_ranks(planes, row, nearer[0][row], nearer[1][row], scratch)
            else:
                order = np.argsort(popcounts(words.database ^ words.query[row]), kind="stable")
                shared = (words.database_labels & words.query_labels[row]).any(axis=1)
                ranks[:] = np.flatnonzero(shared[order]) + 1
            use(row, ranks)

    in_blocks(len(words.query), run, threads)


def _planes(words: WordArrays) -> tuple[npt.NDArray[np.uint64], ...]:
    """The four arrays [N, W] as [W, N]: a vector register then holds the same word of many."""
    return tuple(np.ascontiguousarray(array.T) for array in words)


def in_blocks(queries: int, run: Callable[[int, int], None], threads: int | None) -> None:
    """Call ``run(start, stop)`` for blocks of queries, on ``threads`` threads (None: all cores)."""
    workers = threads or os.cpu_count() or 1
    size = max(8, min(QUERIES_A_TASK, -(-queries // workers)))
    size += size % 2  # the kernel takes queries in pairs
    starts = range(0, queries, size)
    stops = [min(start + size, queries) for start in starts]
    if workers == 1 or len(starts) == 1:
        for bounds in zip(starts, stops, strict=True):
            run(*bounds)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, starts, stops))


def _numpy_counts(words: WordArrays, bits: int, levels: int) -> Counts:
    counts = np.empty((len(words.query), levels * (bits + 1)), dtype=np.int64)
    for row, (code, mask) in enumerate(zip(words.query, words.query_labels, strict=True)):
        shared = words.database_labels & mask
        grade = shared.any(axis=1) if levels == 2 else np.minimum(popcounts(shared), levels - 1)
        cells = levels * popcounts(words.database ^ code) + grade
        counts[row] = np.bincount(cells, minlength=counts.shape[1])
    return counts.reshape(len(words.query), bits + 1, levels)
