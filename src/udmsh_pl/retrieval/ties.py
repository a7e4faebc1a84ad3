"""Average precision when items are tied: exact expectation and extremes from two counts a distance.

Items at one Hamming distance are a *group*: any order within it is as good as another. With
``items[g]`` and ``relevant[g]`` counted for every distance, the expectation of AP@k over all orders
has a closed form, and so have its best and worst value (McSherry & Najork, ECIR 2008; He, Cakir,
Bargal & Sclaroff, CVPR 2018: *stated* for AP with a fixed denominator; the sum for the random
denominator and the extremes are *ours*; the tests enumerate every order).

The sums run over a gain: 1 for AP, the number of shared labels for weighted AP (see graded.py).

Letters in shapes: Q queries, D = bits + 1 distances (so groups a query), M cells or groups picked
out of [Q, D]. In formulas: n items of a group, r of them relevant, g their gain, s ranks of a group
that lie inside k, x relevant items among those; H[m] = 1 + 1/2 + ... + 1/m.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Denominator = Literal["retrieved", "min", "total"]
Cutoff = int | None  # None: the whole database

# queries whose expectation is taken at once: what lies between is kept in the second-level cache
QUERIES_AT_ONCE = 256

# H[0] .. H[64]
_TABLE = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 65))])


def harmonic_difference(low: Float64s, high: Float64s) -> Float64s:
    """H[high] - H[low] for whole numbers 0 <= low <= high, to a relative error near 1e-15.

    The two arrays have one shape, any. Subtracting tabled values loses digits (1e-9 in an AP at a
    million items), so past 64 the asymptotic series
    H[m] = gamma + log(x) + 1/(24 x^2) - 7/(960 x^4) + 31/(8064 x^6), x = m + 1/2, is differenced
    term by term.
    """
    small, large = (_TABLE[np.minimum(x, 64).astype(np.int64)] for x in (low, high))
    start, end = np.maximum(low, 64) + 0.5, np.maximum(high, 64) + 0.5
    tail = _tail(end) - _tail(start)
    return np.asarray(large - small + np.log1p((end - start) / start) + tail)


def _tail(x: Float64s) -> Float64s:
    square = 1.0 / (x * x)
    return square * (1 / 24 - square * (7 / 960 - square * (31 / 8064)))


class Groups(NamedTuple):
    """Tie groups of Q queries at D distances; fields are float64 [Q, D] of whole numbers.

    ``before``, ``hits_before`` and ``gain_before`` are the sums over the nearer groups.
    """

    items: Float64s
    relevant: Float64s
    gain: Float64s
    before: Float64s
    hits_before: Float64s
    gain_before: Float64s

    @staticmethod
    def of(items: Int64s, relevant: Int64s, gain: Int64s | None = None) -> "Groups":
        """Sum up ``items``, ``relevant`` and ``gain`` (by default ``relevant``), integer [Q, D]."""
        n, r = items.astype(np.float64), relevant.astype(np.float64)  # [Q, D]
        before, hits_before = (np.cumsum(x, axis=1) - x for x in (n, r))
        if gain is None:
            return Groups(n, r, r, before, hits_before, hits_before)
        g = gain.astype(np.float64)
        return Groups(n, r, g, before, hits_before, np.cumsum(g, axis=1) - g)

    def at(self, column: Int64s) -> "Groups":
        """One group of each query: fields float64 [Q]."""
        return Groups(*(x[np.arange(len(column)), column] for x in self))


class Straddle(NamedTuple):
    """Where cut-off k falls in each query's list.

    ``column``, int64 [Q], is the group that k cuts (or ends), ``slots``, float64 [Q], how many of
    its ranks lie inside k, ``inside``, bool [Q, D], marks the groups wholly inside.
    """

    column: Int64s
    slots: Float64s
    inside: npt.NDArray[np.bool_]

    def sum_inside(self, values: Float64s) -> Float64s:
        """Sum over the groups wholly inside, [Q, D] -> [Q]."""
        return np.asarray(np.where(self.inside, values, 0.0).sum(axis=1))

    @staticmethod
    def at(groups: Groups, k: int) -> "Straddle":
        """Find the cut for k (1 <= k <= number of items)."""
        inside = groups.before + groups.items <= k  # [Q, D]
        column = np.minimum(inside.sum(axis=1), inside.shape[1] - 1)  # [Q]
        slots = np.maximum(0.0, k - groups.before[np.arange(len(column)), column])
        return Straddle(column, np.where(inside.all(axis=1), 0.0, slots), inside)


def tied_sum(
    n: Float64s, r: Float64s, g: Float64s, before: Float64s, gain_before: Float64s, slots: Float64s
) -> Float64s:
    """Expected sum of (gain so far) / rank over relevant ranks in a group's first ``slots``."""
    # a group's i-th rank is before + i. The item there is relevant with probability r / n and then
    # finds, beside gain_before and its own g / r, the share (i - 1) / (n - 1) of the other gain
    harmonic = harmonic_difference(before, before + slots)  # [M], sum over i of 1 / (before + i)
    n_safe = np.maximum(n, 1.0)
    pairs = np.where(n > 1, (r - 1.0) * g / (n_safe * np.maximum(n - 1.0, 1.0)), 0.0)
    return harmonic * (r * gain_before + g) / n_safe + pairs * (slots - (before + 1.0) * harmonic)


def expected_average_precision(groups: Groups, k: int, denominator: Denominator) -> Float64s:
    """Exact expectation of AP@k over all orders of tied items, float64 [Q]; 0 without a hit."""
    result = np.zeros(len(groups.items))
    for start in range(0, len(result), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        result[rows] = _expected_of_some(Groups(*(x[rows] for x in groups)), k, denominator)
    return result


def _expected_of_some(groups: Groups, k: int, denominator: Denominator) -> Float64s:
    cut = Straddle.at(groups, k)
    whole = np.zeros_like(groups.items)  # [Q, D]
    # all other groups add nothing, and at most distances a query has no item
    some = cut.inside & (groups.gain > 0)  # [Q, D], M of them true
    n, r, g, before, _, gain = (x[some] for x in groups)  # [M]
    whole[some] = tied_sum(n, r, g, before, gain, n)
    done = whole.sum(axis=1)  # [Q]
    n, r, g, before, hits, gain = groups.at(cut.column)  # [Q]
    if denominator != "retrieved":
        part = np.where(cut.slots > 0, tied_sum(n, r, g, before, gain, cut.slots), 0.0)
        return ratio(done + part, fixed_denominator(groups, k, denominator))
    result = ratio(done, cut.sum_inside(groups.relevant))  # [Q]
    split = np.flatnonzero(cut.slots > 0)  # [M], queries whose k cuts a group
    if len(split):
        some_of = (x[split] for x in (n, r, g, before, hits, gain, cut.slots))  # [M]
        n, r, g, before, hits, gain, slots = some_of
        per_hit = g / np.maximum(r, 1.0)
        harmonic = harmonic_difference(before, before + slots)
        # given x relevant items inside k, the numerator is done + linear x + square x (x - 1)
        linear = harmonic * (gain + per_hit) / slots
        rest = np.where(slots > 1, slots - (before + 1.0) * harmonic, 0.0)
        square = per_hit * rest / (slots * np.maximum(slots - 1.0, 1.0))
        result[split] = _hypergeometric_mean(n, r, slots, done[split], linear, square, hits)
    return result


def fixed_denominator(groups: Groups, k: int, denominator: Denominator) -> Float64s:
    """R_total ("total") or min(k, R_total) ("min") of each query."""
    total = np.asarray(groups.relevant.sum(axis=1))
    return np.minimum(total, k) if denominator == "min" else total


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Float64s:
    """Divide numbers, and give 0 where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)


def _hypergeometric_mean(
    n: Float64s, r: Float64s, s: Float64s,
    done: Float64s, linear: Float64s, square: Float64s, hits: Float64s,
) -> Float64s:  # fmt: skip
    """E[(done + linear x + square x (x-1)) / (hits + x)] for x ~ Hypergeometric(n, r, s).

    x is the number of relevant items among s drawn out of n, r of which are relevant.

    The weights are built outward from the mode by the ratio of neighbours and divided by their sum,
    so no factorial is needed; a side ends once its weight is below 1e-20 of the mode's.
    """
    low, high = np.maximum(0.0, s - (n - r)), np.minimum(r, s)
    mode = np.clip(np.floor((r + 1.0) * (s + 1.0) / (n + 2.0)), low, high)

    def value(x: Float64s) -> Float64s:  # [M] -> [M]
        return ratio(done + linear * x + square * x * (x - 1.0), hits + x)

    weights, total = np.ones_like(mode), value(mode)
    mass = weights.copy()
    for step in (1.0, -1.0):
        x, weight = mode.copy(), weights.copy()
        while True:
            up, down = (x, x + 1.0) if step > 0 else (x - 1.0, x)
            # weight at x = down + 1 over weight at x = down
            odds = (r - up) * (s - up) / np.maximum(down * (n - r - s + down), 1.0)
            going = (x < high) if step > 0 else (x > low)
            odds = odds if step > 0 else 1.0 / np.where(going, odds, 1.0)
            weight = np.where(going, weight * odds, 0.0)
            if not (weight > 1e-20).any():
                break
            x = x + step
            mass += weight
            total += weight * value(x)
    return np.asarray(total / mass)


def first_sum(x: Float64s, before: Float64s, hits: Float64s) -> Float64s:
    """Sum of precisions at x relevant items right after ``before`` items, ``hits`` relevant."""
    return x + (hits - before) * harmonic_difference(before, before + x)


def extreme_average_precision(
    groups: Groups, k: int, denominator: Denominator
) -> tuple[Float64s, Float64s]:
    """Worst and best AP@k over all orders of tied items, float64 [Q] each.

    Relevant items go last (worst) or first (best) inside each group. With the "retrieved"
    denominator the number x of the cut group's relevant items inside k matters both ways. Best: the
    mean of precisions first falls, then rises with x, so it is greatest at one end. Worst: the
    numerator is convex in x, so its quotient by (hits + x) has one valley, which bisection finds.
    """
    cut = Straddle.at(groups, k)
    n, r, _, before, hits, _ = groups.at(cut.column)  # [Q]
    slots = cut.slots  # [Q]
    # fewest and most relevant items of the cut group that an order puts inside k, [Q]
    low = np.where(slots > 0, np.maximum(0.0, slots - (n - r)), 0.0)
    high = np.where(slots > 0, np.minimum(r, slots), 0.0)
    # what comes before a group's relevant items when they go last, [Q, D]
    last = groups.before + groups.items - groups.relevant
    done_best = cut.sum_inside(first_sum(groups.relevant, groups.before, groups.hits_before))
    done_worst = cut.sum_inside(first_sum(groups.relevant, last, groups.hits_before))

    def best(x: Float64s) -> Float64s:
        return done_best + first_sum(x, before, hits)

    def worst(x: Float64s) -> Float64s:
        return done_worst + first_sum(x, before + slots - x, hits)

    if denominator != "retrieved":
        den = fixed_denominator(groups, k, denominator)
        return ratio(worst(low), den), ratio(best(high), den)
    # where nothing is cut, hits of the last group's column lack that group's own
    hits_inside = cut.sum_inside(groups.relevant)  # [Q]

    def mean(of: Callable[[Float64s], Float64s], x: Float64s) -> Float64s:
        return ratio(of(x), hits_inside + x)

    # bisection for all queries at once: left and right are [Q]
    left, right = low.copy(), high.copy()
    while (left < right).any():
        middle = np.floor((left + right) / 2.0)
        rising = mean(worst, middle + 1.0) >= mean(worst, middle)
        active = left < right
        right = np.where(active & rising, middle, right)
        left = np.where(active & ~rising, middle + 1.0, left)
    return mean(worst, left), np.maximum(mean(best, low), mean(best, high))


def average_precision_of_ranks(
    ranks: Int64s, cuts: Sequence[int], denominator: Denominator, relevant: int
) -> Float64s:
    """AP@k of one ranking at every k of ``cuts``, float64 [len(cuts)].

    ``ranks``, int64 [R], are of the relevant items, ascending, from 1; those up to the largest cut
    suffice; ``relevant`` counts all.
    """
    sums = np.cumsum(np.arange(1, len(ranks) + 1) / ranks)  # [R], sums of precisions at hits
    result = np.zeros(len(cuts))
    for column, k in enumerate(cuts):
        hits = int(np.searchsorted(ranks, k, side="right"))
        total = {"retrieved": hits, "min": min(k, relevant), "total": relevant}[denominator]
        result[column] = sums[hits - 1] / total if hits else 0.0
    return result


def hit_probability(groups: Groups, k: int) -> Float64s:
    """Probability of a relevant item among the k nearest, over orders of ties, float64 [Q]."""
    from scipy.special import gammaln  # takes a while to load

    cut = Straddle.at(groups, k)
    whole = (cut.inside & (groups.relevant > 0)).any(axis=1)  # [Q]
    n, r, *_ = groups.at(cut.column)  # [Q]
    s = cut.slots
    # no hit among s of n items, r of them relevant: C(n - r, s) / C(n, s)
    miss = gammaln(n - r + 1) + gammaln(n - s + 1) - gammaln(n - r - s + 1) - gammaln(n + 1)
    return np.where(whole, 1.0, 1.0 - np.exp(miss))
