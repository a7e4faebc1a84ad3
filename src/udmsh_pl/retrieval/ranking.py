"""Measures of one ranking, and of the k nearest when the last rank is shared by tied items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from udmsh_pl.retrieval.ties import Denominator, Float64s, Groups, Straddle, columns


def average_precision_of_ranks(
    ranks: npt.NDArray[np.int64],
    cuts: Sequence[int],
    denominator: Denominator,
    relevant: int | None = None,
) -> Float64s:
    """AP@k of one ranking at every k, float64 [len(cuts)].

    Args:
        ranks: int64 [R], ranks of the relevant items, ascending, from 1
        cuts: the values of k
        denominator: as of :func:`evaluate_codes`
        relevant: number of relevant items where ``ranks`` holds the first alone; None for R
    """
    everything = len(ranks) if relevant is None else relevant
    sums = np.cumsum(np.arange(1, len(ranks) + 1) / ranks)  # [R], sums of precisions at hits
    result = np.zeros(len(cuts))
    for column, k in enumerate(cuts):
        hits = int(np.searchsorted(ranks, k, side="right"))
        total = {"retrieved": hits, "min": min(k, everything), "total": everything}[denominator]
        result[column] = sums[hits - 1] / total if hits else 0.0
    return result


def hit_probability(groups: Groups, k: int) -> Float64s:
    """Probability of a relevant item among the k nearest, over orders of ties, float64 [Q]."""
    cut = Straddle.at(groups, k)
    whole = (cut.inside & (groups.relevant > 0)).any(axis=1)  # [Q]
    n, r, *_ = columns(groups, cut)  # [Q]
    miss = np.ones(len(n))  # [Q]
    for row in np.flatnonzero(~whole & (cut.slots > 0) & (r > 0)):
        # no hit among s of n items, r of them relevant: C(n - r, s) / C(n, s), as a product of
        # min(r, s) factors
        few, many = sorted((r[row], cut.slots[row]))
        i = np.arange(few)  # [min(r, s)]
        miss[row] = np.prod(np.maximum(n[row] - many - i, 0.0) / (n[row] - i))
    return np.where(whole, 1.0, 1.0 - miss)
