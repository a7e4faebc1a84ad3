"""Confidence interval of a mean over queries."""

from __future__ import annotations

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.ties import Floats


def bootstrap_interval(values: Floats, confidence: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-query values (Efron & Tibshirani, 1993, ch. 13: *stated*).

    The queries are the sample: the interval says how much a mean would move with other queries of the same kind. It
    says nothing about other seeds of training.

    Args:
        values: [Q], such as ``report.average_precision[None]``
        confidence: between 0 and 1
        samples: resamples; the ends move by about 1 % of the interval's width at 2,000
        seed: equal seeds give equal intervals

    Raises:
        InputError: no values, or a confidence outside (0, 1).
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    if not len(data):
        raise InputError("there are no values to resample: give at least one query")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}: give a number between 0 and 1, such as 0.95")
    if samples < 1:
        raise InputError(f"samples is {samples}: give 1 or more, such as 2000")
    random = np.random.default_rng(seed)
    means = np.empty(samples)
    for row in range(samples):  # one resample at a time: 5,000 queries x 2,000 resamples would be 80 MB of indices
        means[row] = data[random.integers(0, len(data), len(data))].mean()
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
