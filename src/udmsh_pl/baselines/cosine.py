"""The yardstick without codes: rank the database by inner products of real-valued vectors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.baselines.base import Float32s

Bools = NDArray[np.bool_]


def cosine_map(
    query: Float32s,
    database: Float32s,
    query_labels: Bools,
    database_labels: Bools,
    ks: Sequence[int | None],
    block: int = 64,
) -> dict[int | None, float]:
    """:func:`inner_product_map` with database rows of length 1, which ranks by the cosine."""
    database = database / np.linalg.norm(database, axis=1, keepdims=True).clip(1e-12)
    return inner_product_map(query, database, query_labels, database_labels, ks, block)


def inner_product_map(
    query: Float32s,
    database: Float32s,
    query_labels: Bools,
    database_labels: Bools,
    ks: Sequence[int | None],
    block: int = 64,
) -> dict[int | None, float]:
    """mAP@k of the ranking by inner products, denominator "retrieved", queries without a hit
    count 0.

    Equal products of different images hardly occur, so ties are broken by row.

    Args:
        query: float [Q, D]
        database: float [N, D]
        query_labels: bool [Q, L]
        database_labels: bool [N, L]
        ks: cut-offs; None is the whole database
        block: queries a block, which bounds the memory at ``block * N`` numbers
    """
    totals: dict[int | None, float] = dict.fromkeys(ks, 0.0)
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        order = np.argsort(-(query[rows] @ database.T), axis=1, kind="stable")
        relevant = query_labels[rows].astype(np.float32) @ database_labels.T.astype(np.float32) > 0
        hits = np.take_along_axis(relevant, order, axis=1)
        found = hits.cumsum(1)
        precisions = np.where(hits, found / np.arange(1, hits.shape[1] + 1), 0.0).cumsum(1)
        for k in ks:
            last = min(k or hits.shape[1], hits.shape[1]) - 1
            totals[k] += float((precisions[:, last] / np.maximum(found[:, last], 1)).sum())
    return {k: total / len(query) for k, total in totals.items()}
