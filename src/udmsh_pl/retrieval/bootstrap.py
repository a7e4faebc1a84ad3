"""Confidence intervals of a mean over queries, and of the differences of methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.ties import Float64s

BLOCK = 100  # resamples at once


def bootstrap_interval(
    values: Float64s, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-query values.

    Source: Efron & Tibshirani, 1993, ch. 13 (*stated*).

    The queries are the sample: the interval says how much a mean would move with other queries of
    the same kind. It says nothing about other seeds of training.

    ``values`` are [Q], such as ``report.average_precision[None]``. The ends move by about 1 % of
    the width at 2,000 resamples; equal seeds give equal intervals.

    Raises ``InputError``: no values, or a confidence outside (0, 1).

    Example:
        >>> lower, upper = bootstrap_interval([0.0, 1.0, 0.0, 1.0, 1.0])  # a mean of 0.6 of five
        >>> round(lower, 2), round(upper, 2)
        (0.2, 1.0)
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    _check(len(data), confidence, samples)
    random, size = np.random.default_rng(seed), len(data)
    # one resample [Q] at a time: 5,000 queries x 2,000 resamples would be 80 MB of indices
    means = [data[random.integers(0, size, size)].mean() for _ in range(samples)]
    return _interval(np.array(means), confidence)


@dataclass(frozen=True)
class PairedDifference:
    """How much better the first method is: mean, interval, and two-sided bootstrap p-value."""

    mean: float
    lower: float
    upper: float
    p_value: float


def paired_difference(
    first: Float64s, second: Float64s, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Compare two methods on the same queries: bootstrap of the mean of per-query differences.

    Queries are resampled in pairs, so what makes a query hard for both methods cancels; two
    separate intervals may overlap where this one excludes 0 (Sakai, SIGIR 2006: *stated* for
    retrieval measures). No p-value below 1 / (samples + 1) can come out. The arguments are as of
    :func:`bootstrap_interval`, ``first`` and ``second`` [Q] in one order of queries, or one row
    for each seed of training, [S, Q]: see :func:`paired_differences`.

    Raises ``InputError``: lengths that differ, and what :func:`bootstrap_interval` raises.

    Example:
        Queries differ by far, but the first method gains 1/4 on each of them: its lead is sure.

        >>> found = paired_difference([0.25, 0.5, 1.0], [0.0, 0.25, 0.75])
        >>> [round(one, 4) for one in (found.mean, found.lower, found.upper, found.p_value)]
        [0.25, 0.25, 0.25, 0.0005]
    """
    found = paired_differences({"first": first, "second": second}, confidence, samples, seed)
    return found["first", "second"]


def paired_differences(
    scores: Mapping[str, Float64s], confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> dict[tuple[str, str], PairedDifference]:
    """Compare each method with each other one, over queries and seeds of training.

    A resample draws queries, the same for all methods, and for each method as many of its seeds
    as it has (Efron & Tibshirani, 1993, ch. 8: units of two kinds; its use here is *ours*). So an
    interval is about other queries *and* other seeds. Of S seeds a bootstrap sees (S - 1) / S of
    the variance: with three, the part of the interval that seeds make is a fifth too narrow.

    Args:
        scores: per-query values of each method, [Q], or [S, Q] with a row for each seed

    Returns:
        the lead of the first method over the second, for each pair (first, second) in the order of
        ``scores``

    Raises ``InputError``: numbers of queries that differ, none at all, and what
    :func:`bootstrap_interval` raises.

    Example:
        >>> found = paired_differences({"a": [[0.5, 1.0], [0.7, 1.0]], "b": [0.25, 0.75]})
        >>> round(found["a", "b"].mean, 2)
        0.3
    """
    names = list(scores)
    rows = [np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in scores.values()]
    queries = rows[0].shape[1] if rows else 0
    for name, values in zip(names, rows, strict=True):
        if values.shape[1] != queries:
            sizes = f"{names[0]} has {queries} queries, {name} {values.shape[1]}"
            raise InputError(f"{sizes}: compare on the same queries")
    _check(queries, confidence, samples)
    stacked, random = np.concatenate(rows), np.random.default_rng(seed)
    drawn = np.concatenate(
        [  # in blocks: 5,000 queries x 2,000 resamples would be 80 MB of weights
            stacked @ random.multinomial(queries, np.full(queries, 1 / queries), block).T / queries
            for block in np.diff([*range(0, samples, BLOCK), samples])
        ],
        axis=1,
    )  # [all seeds of all methods, samples]
    means = []  # of each method: with all seeds and queries, then resampled, [samples]
    for own in np.split(drawn, np.cumsum([len(values) for values in rows])[:-1]):
        chosen = random.integers(0, len(own), own.T.shape)  # [samples, S]
        means.append(np.take_along_axis(own.T, chosen, axis=1).mean(axis=1))
    found = {}
    for (one, first), (other, second) in combinations(enumerate(names), 2):
        lead = float(rows[one].mean() - rows[other].mean())
        resampled = means[one] - means[other]
        # under the null hypothesis the differences are those found, moved to a mean of 0
        extreme = int((np.abs(resampled - lead) >= abs(lead) * (1 - 1e-12)).sum())
        p_value = (extreme + 1) / (samples + 1)
        found[first, second] = PairedDifference(lead, *_interval(resampled, confidence), p_value)
    return found


def _interval(resampled: Float64s, confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(resampled, [tail, 1.0 - tail])
    return float(lower), float(upper)


def _check(queries: int, confidence: float, samples: int) -> None:
    if not queries:
        raise InputError("there are no values to resample: give at least one query")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}: give a number between 0 and 1, such as 0.95")
    if samples < 1:
        raise InputError(f"samples is {samples}: give 1 or more, such as 2000")
