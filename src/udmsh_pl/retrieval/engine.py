"""Who ranks the database where ties go by row: the exact evaluator, or a FAISS binary index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Words

Engine = Literal["exact", "faiss"]
FOUND_AT_ONCE = 1 << 23  # neighbours that are there at once: 100 MB of distances and rows


@dataclass(frozen=True)
class Evaluation:
    """How codes are scored: what it costs, not what comes out.

    Counts of items at each distance, and with them mAP over all orders of ties, its bounds and the
    curves, are the exact evaluator's under both engines.

    Args:
        engine: ``exact`` counts; ``faiss`` also ranks the database with a FAISS binary index, from
            which mAP in order of rows comes
        device: ``cuda`` counts, and FAISS ranks, on a GPU; null for the processor
    """

    engine: Engine = "exact"
    device: str | None = None

    def check(self) -> None:
        """Refuse what this machine cannot do, before anything is trained.

        Raises:
            InputError: no such engine, or no such device here.
        """
        if self.engine not in get_args(Engine):
            raise InputError(
                f"engine is {self.engine!r}: give one of {', '.join(get_args(Engine))}"
            )
        if self.device not in (None, "cpu"):
            from udmsh_pl.retrieval.counting.cuda import checked_device

            checked_device(self.device)
            if self.engine == "faiss":
                from udmsh_pl.retrieval.gpu_search import faiss_has_gpu

                faiss_has_gpu()


def each_faiss_ranking(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    k: int,
    score: Callable[[int, npt.NDArray[np.int64]], None],
    device: str = "cpu",
) -> None:
    """Rank the k nearest of each query with a flat index, and hand over where relevant items are.

    Args:
        query: uint64 [Q, W], codes padded to words
        database: uint64 [N, W]
        query_labels: uint64 [Q, V], labels as bit masks
        database_labels: uint64 [N, V]
        bits: code length
        k: at most N
        score: is given a query's number and the ranks, int64 ascending from 1, of the relevant
            items among the k nearest, ties by row
        device: "cpu", or a CUDA device of torch
    """
    from udmsh_pl.retrieval.index import BinaryIndex

    octets = (bits + 7) // 8
    index = BinaryIndex(bits, device=device)
    index.add(np.ascontiguousarray(database.view(np.uint8)[:, :octets]))
    codes = np.ascontiguousarray(query.view(np.uint8)[:, :octets])
    at_once = max(1, FOUND_AT_ONCE // k)
    for start in range(0, len(codes), at_once):
        _, rows = index.search(codes[start : start + at_once], k)
        for number, found in enumerate(rows, start):
            relevant = (database_labels[found] & query_labels[number]).any(axis=1)
            score(number, np.flatnonzero(relevant) + 1)
