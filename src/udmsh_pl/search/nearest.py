"""Nearest codes by Hamming distance, and cosines of int8 features: what one search costs."""

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.retrieval.codes import code_words, popcounts

Int64s = NDArray[np.int64]


def shortlist(
    code: NDArray[np.uint8], codes: NDArray[np.uint8], count: int
) -> tuple[Int64s, Int64s]:
    """The ``count`` nearest codes, ties in the order of rows: distances and rows, nearest first.

    Every code is looked at, 20 ms for a million of 64 bits; no index is built, since one search
    from the command line would wait for it longer.

    Args:
        code: uint8 [B]
        codes: uint8 [N, B]
        count: at most so many
    """
    distances = popcounts(code_words(codes) ^ code_words(code[None]))
    count = min(count, len(distances))
    if count < len(distances):
        # a distance, and the row where it is equal: one number, so that a partition keeps the order
        keys = distances * len(distances) + np.arange(len(distances))
        rows = np.sort(np.argpartition(keys, count - 1)[:count])
    else:
        rows = np.arange(count)
    rows = rows[np.argsort(distances[rows], kind="stable")]
    return distances[rows], rows


def cosines(feature: NDArray[np.int8], features: NDArray[np.int8]) -> NDArray[np.float64]:
    """Cosines of one feature int8 [d] with others int8 [n, d]; 0 where one of them is all zero."""
    one, many = feature.astype(np.float64), features.astype(np.float64)
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    return np.asarray(many @ one / np.where(lengths > 0, lengths, 1))
