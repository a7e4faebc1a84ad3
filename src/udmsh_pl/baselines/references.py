"""References without codes: the ranking by real-valued vectors, and product quantisation.

PQ: Jegou, Douze & Schmid, TPAMI 2011; OPQ: Ge, He, Ke & Sun, CVPR 2013; both as FAISS has them.
An image is a number a part of its feature, and what is compared with the query is the image's
*reconstruction*: asymmetric distances, which no Hamming search computes. Hence rows of their own,
"pq (asymmetric)" and "opq (asymmetric)".
"""

from collections.abc import Sequence
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from udmsh_pl.baselines.base import Float32s, principal_directions
from udmsh_pl.errors import InputError

Bools = NDArray[np.bool_]
Quantiser = Literal["pq", "opq"]
PART_BITS = 8  # of a part: 256 centroids
AXES = 128  # that OPQ turns


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


def reconstructions(kind: Quantiser, bits: int, train: Float32s, database: Float32s) -> Float32s:
    """What ``bits`` bits an image keep of its feature: float32 of the database's shape ``[N, D]``.

    Parts of a quantiser are equally long, so features are filled up with zeros where ``bits / 8``
    does not divide D.

    Args:
        kind: ``pq``, or ``opq``, which turns features first: the 128 principal axes, since a
            rotation is solved for in each of its rounds
        bits: of an image, a multiple of 8
        train: float [M, D], which the quantiser is trained on; at least 256 rows
        database: float [N, D]

    Raises:
        InputError: a number of bits that is no multiple of 8, or fewer than 256 train rows.
    """
    if bits < PART_BITS or bits % PART_BITS:
        raise InputError(
            f"reproduce.quantisers at {bits} bits: a part of {kind} has {PART_BITS}; give "
            "reproduce.bits multiples of 8"
        )
    if len(train) < 2**PART_BITS:
        raise InputError(
            f"reproduce.quantisers needs {2**PART_BITS} train images for as many centroids, there "
            f"are {len(train)}; give reproduce.quantisers []"
        )
    if kind == "opq":
        axes = principal_directions(train, min(AXES, *train.shape))  # [D, axes]
        turned = [rows @ axes for rows in (train, database)]
        rotation: Any = faiss.OPQMatrix(
            axes.shape[1], bits // PART_BITS, _filled(axes.shape[1], bits)
        )
        inner = _quantiser(_filled(axes.shape[1], bits), bits)  # FAISS keeps its address alone
        rotation.pq = inner
        rotation.train(np.ascontiguousarray(turned[0], dtype=np.float32))
        turned = [rotation.apply(np.ascontiguousarray(rows, dtype=np.float32)) for rows in turned]
        kept = rotation.reverse_transform(reconstructions("pq", bits, turned[0], turned[1]))
        return np.asarray(kept @ axes.T)
    dim = train.shape[1]
    train, database = (
        np.ascontiguousarray(
            np.pad(rows, ((0, 0), (0, _filled(dim, bits) - dim))), dtype=np.float32
        )
        for rows in (train, database)
    )
    quantiser = _quantiser(train.shape[1], bits)
    quantiser.train(train)
    return np.asarray(quantiser.decode(quantiser.compute_codes(database)))[:, :dim]


def _quantiser(dim: int, bits: int) -> Any:
    """An untrained one, that does not print how few train rows there are: all there are."""
    quantiser: Any = faiss.ProductQuantizer(dim, bits // PART_BITS, PART_BITS)
    quantiser.cp.min_points_per_centroid = 1
    return quantiser


def _filled(dim: int, bits: int) -> int:
    """The least multiple of the number of parts that is not below ``dim``."""
    parts = bits // PART_BITS
    return -(-dim // parts) * parts


def quantiser_map(
    kind: Quantiser,
    bits: int,
    features: tuple[Float32s, Float32s, Float32s],
    labels: tuple[Bools, Bools],
    ks: Sequence[int | None],
) -> dict[int | None, float]:
    """mAP@k of a quantiser's asymmetric ranking, by the Euclidean distance of features that are
    centred and of length 1.

    Args:
        kind: ``pq`` or ``opq``
        bits: of an image
        features: float [M, D] of train, [Q, D] of query and [N, D] of database images
        labels: bool [Q, L] of the queries and [N, L] of the database
        ks: cut-offs; None is the whole database
    """
    mean = features[0].mean(0)
    train, query, database = (
        (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True).clip(1e-12)
        for rows in features
    )
    kept = reconstructions(kind, bits, train, database)
    # -|q - x|^2 / 2 less |q|^2 / 2, as an inner product
    lengths = -np.square(kept).sum(1, keepdims=True) / 2
    asked = np.column_stack([query, np.ones(len(query), np.float32)])
    return inner_product_map(asked, np.column_stack([kept, lengths]), *labels, ks)
