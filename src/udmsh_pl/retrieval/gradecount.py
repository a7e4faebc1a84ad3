"""Count items by distance and number of shared labels: what graded metrics need. Compiled by numba, or in NumPy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.codes import Words, popcounts
from udmsh_pl.retrieval.kernel import in_blocks

try:
    if os.environ.get("UDMSH_NO_NUMBA") == "1":
        raise ImportError("numba is switched off by UDMSH_NO_NUMBA")
    from udmsh_pl.retrieval import gradeloops
except ImportError:  # as in kernel.py
    gradeloops = None  # type: ignore[assignment]

Counts = npt.NDArray[np.int64]


def count_grades(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    levels: int,
    threads: int | None = None,
) -> Counts:
    """Count items at each Hamming distance by grade, which is min(number of shared labels, ``levels`` - 1).

    Args:
        query: uint64 [Q, W], from ``code_words``
        database: uint64 [N, W]
        query_labels: uint64 [Q, V], from ``label_words``
        database_labels: uint64 [N, V]
        bits: code length
        levels: number of grades, 2 or more
        threads: how many to use; None for all cores

    Returns:
        int64 [Q, bits + 1, levels].
    """
    counts = np.zeros((len(query), levels * (bits + 1)), dtype=np.int64)
    columns: list[Any] = [np.ascontiguousarray(words.T) for words in (query, database, query_labels, database_labels)]

    def run(start: int, stop: int) -> None:
        if gradeloops is not None:
            gradeloops.count_block(*columns, levels, start, stop, counts)
            return
        for row in range(start, stop):
            grade = np.minimum(popcounts(database_labels & query_labels[row]), levels - 1)
            cells = levels * popcounts(database ^ query[row]) + grade
            counts[row] = np.bincount(cells, minlength=counts.shape[1])

    in_blocks(len(query), run, threads)
    return counts.reshape(len(query), bits + 1, levels)


def most_shared(query_labels: Words, database_labels: Words) -> int:
    """Bound on the number of labels that a query and an item share: the smaller of the two largest label sets."""
    return int(min(popcounts(query_labels).max(initial=0), popcounts(database_labels).max(initial=0)))
