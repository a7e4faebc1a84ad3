"""Best and worst AP@k that an order of tied items can give.

The closed forms are *ours*; the tests enumerate every order. Letters as in ties.py.
"""

from __future__ import annotations

import numpy as np

from udmsh_pl.retrieval.ties import (
    Denominator,
    Float64s,
    Groups,
    Straddle,
    columns,
    fixed_denominator,
    harmonic_difference,
    ratio,
)


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
    n, r, _, before, hits, _ = columns(groups, cut)  # [Q]
    slots = cut.slots  # [Q]
    # fewest and most relevant items of the cut group that an order puts inside k, [Q]
    low = np.where(slots > 0, np.maximum(0.0, slots - (n - r)), 0.0)
    high = np.where(slots > 0, np.minimum(r, slots), 0.0)
    # what comes before a group's relevant items when they go last, [Q, D]
    last = groups.before + groups.items - groups.relevant
    done_best = _sum_inside(first_sum(groups.relevant, groups.before, groups.hits_before), cut)
    done_worst = _sum_inside(first_sum(groups.relevant, last, groups.hits_before), cut)

    def best(x: Float64s) -> Float64s:
        return done_best + first_sum(x, before, hits)

    def worst(x: Float64s) -> Float64s:
        return done_worst + first_sum(x, before + slots - x, hits)

    if denominator != "retrieved":
        den = fixed_denominator(groups, k, denominator)
        return ratio(worst(low), den), ratio(best(high), den)
    # where nothing is cut, hits of the last group's column lack that group's own
    hits_inside = np.where(cut.inside, groups.relevant, 0.0).sum(axis=1)  # [Q]

    # bisection for all queries at once: left and right are [Q]
    left, right = low.copy(), high.copy()
    while (left < right).any():
        middle = np.floor((left + right) / 2.0)
        rising = ratio(worst(middle + 1.0), hits_inside + middle + 1.0) >= ratio(
            worst(middle), hits_inside + middle
        )
        active = left < right
        right = np.where(active & rising, middle, right)
        left = np.where(active & ~rising, middle + 1.0, left)
    lowest = ratio(worst(left), hits_inside + left)
    highest = np.maximum(ratio(best(low), hits_inside + low), ratio(best(high), hits_inside + high))
    return lowest, highest


def _sum_inside(values: Float64s, cut: Straddle) -> Float64s:
    return np.asarray(np.where(cut.inside, values, 0.0).sum(axis=1))  # [Q, D] -> [Q]
