"""Nearest codes by Hamming distance, and likeness by int8 features: what one search costs."""

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.retrieval.codes import code_words, popcounts

Int64s = NDArray[np.int64]
MOST_TIED = 10_000  # of equally near codes beyond those asked for
# of the codes in a likeness: on drawings .05 finds less at k = 100, .2 less at k = 1 (*ours*)
CODE_SHARE = 0.1


def shortlist(
    code: NDArray[np.uint8], codes: NDArray[np.uint8], count: int
) -> tuple[Int64s, Int64s]:
    """The ``count`` nearest codes and all that are as near as the last of them: distances and rows,
    nearest first, in the order of rows at a tie.

    Learned codes tie a lot (of 2,000 pictures, one has 14 others with its very code), and which of
    them came first in the index must not decide. Every code is looked at: no index is built, since
    one search from the command line would wait for it longer.

    Args:
        code: uint8 [B]
        codes: uint8 [N, B]
        count: at least so many, if there are; ties beyond add at most 10,000
    """
    distances = popcounts(code_words(codes) ^ code_words(code[None]))
    if count < len(distances):
        furthest = np.searchsorted(np.bincount(distances).cumsum(), count)
        rows = np.flatnonzero(distances <= furthest)
        rows = rows[np.argsort(distances[rows], kind="stable")][: count + MOST_TIED]
    else:
        rows = np.argsort(distances, kind="stable")
    return distances[rows], rows


def reranked(
    distances: Int64s,
    rows: Int64s,
    bits: int,
    feature: NDArray[np.int8],
    features: NDArray[np.int8],
) -> tuple[Int64s, Int64s, NDArray[np.float64]]:
    """A shortlist in the order of its :func:`likeness`, the second stage of a search; at one
    likeness in the order of distances, then of rows.

    Args:
        distances: int64 [n]
        rows: int64 [n]
        bits: code length K
        feature: int8 [d]
        features: int8 [n, d], of those rows
    """
    alike = likeness(distances, bits, feature, features)
    order = np.lexsort((rows, distances, -alike))
    return distances[order], rows[order], alike[order]


def likeness(
    distances: Int64s, bits: int, feature: NDArray[np.int8], features: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Nine tenths the cosine of the features int8 [d] and [n, d], one tenth that of the codes at
    those distances; of the codes alone where features have no length.

    The features know best which picture is the nearest, the codes, which were learned from what
    whole neighbourhoods share, which hundred belong together.
    """
    of_codes = 1 - 2 * distances / bits
    if not len(feature):
        return of_codes
    return (1 - CODE_SHARE) * cosines(feature, features) + CODE_SHARE * of_codes


def cosines(feature: NDArray[np.int8], features: NDArray[np.int8]) -> NDArray[np.float64]:
    """Cosines of one feature int8 [d] with others int8 [n, d]; 0 where one of them is all zero."""
    one, many = feature.astype(np.float64), features.astype(np.float64)
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    return np.asarray(many @ one / np.where(lengths > 0, lengths, 1))
