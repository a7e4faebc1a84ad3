"""References without codes: the ranking by real-valued vectors, and product quantisation.

PQ: Jegou, Douze & Schmid, TPAMI 2011; OPQ: Ge, He, Ke & Sun, CVPR 2013; both as FAISS has them. A
code holds a centroid's number for each part of a feature. The query is compared with the
*reconstruction*: asymmetric distances, which no Hamming search computes. Hence rows of their own,
"pq (asymmetric)" and "opq (asymmetric)".
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from udmsh_pl.baselines.base import Float32s, principal_directions
from udmsh_pl.errors import InputError

Int64s = NDArray[np.int64]
Labels = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # [Q, L] of queries, [N, L] of the database
Values = dict[int | None, float]  # mAP by cut-off; None is the whole database
Quantiser = Literal["pq", "opq"]
PART_BITS = 8  # of a part: 256 centroids
AXES = 128  # that OPQ rotates
QUERIES = 64  # a block, which bounds the memory at so many numbers an image of the database


def cosine_map(
    query: Float32s, database: Float32s, labels: Labels, ks: Sequence[int | None]
) -> Values:
    """:func:`inner_product_map` with database rows of length 1, which ranks by the cosine."""
    database = database / np.linalg.norm(database, axis=1, keepdims=True).clip(1e-12)
    return inner_product_map(query, database, labels, ks)


def inner_product_map(
    query: Float32s, database: Float32s, labels: Labels, ks: Sequence[int | None]
) -> Values:
    """mAP@k of the ranking of ``database [N, D]`` by inner products with ``query [Q, D]``.

    The denominator is "retrieved", and queries without a hit count 0. Equal products of different
    images hardly occur, so ties are broken by row.
    """

    def order(rows: slice) -> Int64s:
        return np.argsort(-(query[rows] @ database.T), axis=1, kind="stable")

    return ranking_map(order, labels, ks)


def ranking_map(
    order: Callable[[slice], Int64s], labels: Labels, ks: Sequence[int | None]
) -> Values:
    """mAP@k, as in :func:`inner_product_map`, of the ranking ``order(queries)``: rows of the
    database int64 [q, N], best first, of a slice of the queries.
    """
    totals, count = dict.fromkeys(ks, 0.0), len(labels[0])
    for start in range(0, count, QUERIES):
        rows = slice(start, start + QUERIES)
        relevant = labels[0][rows].astype(np.float32) @ labels[1].T.astype(np.float32) > 0
        hits = np.take_along_axis(relevant, order(rows), axis=1)
        found = hits.cumsum(1)
        precisions = np.where(hits, found / np.arange(1, hits.shape[1] + 1), 0.0).cumsum(1)
        for k in ks:
            last = min(k or hits.shape[1], hits.shape[1]) - 1
            totals[k] += float((precisions[:, last] / np.maximum(found[:, last], 1)).sum())
    return {k: total / count for k, total in totals.items()}


def reconstructions(kind: Quantiser, bits: int, train: Float32s, database: Float32s) -> Float32s:
    """What ``bits`` bits an image keep of its feature: float32 of the database's shape ``[N, D]``.

    Parts of a quantiser are equally long, so features are filled up with zeros where ``bits / 8``
    does not divide D. OPQ rotates features first: the 128 principal axes, since a rotation is
    solved for in each of its rounds. An InputError says that bits are no multiple of 8, or that
    there are fewer than 256 train rows ``[M, D]``.
    """
    parts = bits // PART_BITS
    if parts < 1 or bits % PART_BITS:
        problem = f"reproduce.quantisers at {bits} bits: a part of {kind} has {PART_BITS}"
        raise InputError(f"{problem}; give reproduce.bits multiples of 8")
    if len(train) < 2**PART_BITS:
        raise InputError(
            f"reproduce.quantisers needs {2**PART_BITS} train images for as many centroids, there "
            f"are {len(train)}; give reproduce.quantisers []"
        )
    if kind == "opq":
        axes = principal_directions(train, min(AXES, *train.shape))  # [D, axes]
        dim = axes.shape[1]
        rotation: Any = faiss.OPQMatrix(dim, parts, _filled(dim, parts))
        inner = _quantiser(_filled(dim, parts), parts)  # FAISS keeps its address alone
        rotation.pq = inner
        rotation.train(_contiguous(train @ axes))
        rotated = [rotation.apply(_contiguous(rows @ axes)) for rows in (train, database)]
        kept = rotation.reverse_transform(reconstructions("pq", bits, *rotated))
        return np.asarray(kept @ axes.T)
    dim = train.shape[1]
    fill = (0, 0), (0, _filled(dim, parts) - dim)
    quantiser = _quantiser(_filled(dim, parts), parts)
    quantiser.train(_contiguous(np.pad(train, fill)))
    codes = quantiser.compute_codes(_contiguous(np.pad(database, fill)))
    return np.asarray(quantiser.decode(codes))[:, :dim]


def _quantiser(dim: int, parts: int) -> Any:
    """An untrained quantiser that prints no warning about few train rows."""
    quantiser: Any = faiss.ProductQuantizer(dim, parts, PART_BITS)
    quantiser.cp.min_points_per_centroid = 1
    return quantiser


def _filled(dim: int, parts: int) -> int:
    """The least multiple of the number of parts that is not below ``dim``."""
    return -(-dim // parts) * parts


def _contiguous(rows: Float32s) -> Float32s:
    return np.ascontiguousarray(rows, dtype=np.float32)


def quantiser_map(
    kind: Quantiser,
    bits: int,
    features: tuple[Float32s, Float32s, Float32s],
    labels: Labels,
    ks: Sequence[int | None],
) -> Values:
    """mAP@k of a quantiser's asymmetric ranking, by the Euclidean distance of features that are
    centred and of length 1: float [M, D] of train, [Q, D] of query, [N, D] of database images.
    """
    centred = [rows - features[0].mean(0) for rows in features]
    train, query, database = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12) for rows in centred
    )
    kept = reconstructions(kind, bits, train, database)
    # -|q - x|^2 / 2 less |q|^2 / 2, as an inner product
    lengths = -np.square(kept).sum(1, keepdims=True) / 2
    extended = np.column_stack([query, np.ones(len(query), np.float32)])
    return inner_product_map(extended, np.column_stack([kept, lengths]), labels, ks)
