"""NDCG@k, ACG@k, WAP@k: metrics that know how many labels two images share, exact under ties.

The grade of an item is the number of labels it shares with the query. Definitions as the
multi-label hashing papers use them (Zhao et al., CVPR 2015: *stated*), with gain 2^grade - 1 and
discount 1 / log2(1 + rank) for NDCG (Järvelin & Kekäläinen, TOIS 2002: *stated*); expectation over
ties: McSherry & Najork, ECIR 2008 (*stated* for DCG), WAP *ours*.

Letters in shapes: Q queries, N items of the database, D = bits + 1 distances, C grades.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from udmsh_pl.retrieval import ties
from udmsh_pl.retrieval.codes import WordArrays, popcounts
from udmsh_pl.retrieval.counting import Counts, count_grades
from udmsh_pl.retrieval.ties import Cutoff, Denominator, Float64s, Groups, ratio

# queries counted at a time: their counts have a cell for each distance and grade
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class GradedReport:
    """Graded scores by cut-off (``None`` is ALL); per-query arrays are float64 [Q]."""

    ndcg_per_query: dict[Cutoff, Float64s]
    acg_per_query: dict[Cutoff, Float64s]
    wap_per_query: dict[Cutoff, Float64s]

    @property
    def ndcg(self) -> dict[Cutoff, float]:
        """Mean of DCG@k over the best ranking's DCG@k; 0 for a query without relevant items."""
        return {k: float(values.mean()) for k, values in self.ndcg_per_query.items()}

    @property
    def acg(self) -> dict[Cutoff, float]:
        """Mean number of labels shared with the k nearest items."""
        return {k: float(values.mean()) for k, values in self.acg_per_query.items()}

    @property
    def wap(self) -> dict[Cutoff, float]:
        """Mean, over the relevant ranks inside k, of the ACG up to that rank; 0 without a hit."""
        return {k: float(values.mean()) for k, values in self.wap_per_query.items()}


def graded_report(
    words: WordArrays, bits: int, ks: Sequence[Cutoff], denominator: Denominator,
    threads: int | None,
) -> GradedReport:  # fmt: skip
    """Score graded relevance from one pass over the database; WAP has the denominator of AP.

    ``None`` and a k beyond the database are ALL, ``None`` threads all cores.
    """
    # two items share no more labels than the one with fewer has
    most = min(int(popcounts(masks).max(initial=0)) for masks in words[2:])
    levels, items = max(2, most + 1), len(words.database)
    # discounts[m] is the sum of the discounts of the first m ranks, [N + 1]: a group's gain, shared
    # evenly, is weighted by the difference of two of them
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(items) + 2.0))])
    ndcg, acg, wap = ({k: np.empty(len(words.query)) for k in ks} for _ in range(3))
    for start in range(0, len(words.query), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        some = words._replace(query=words.query[rows], query_labels=words.query_labels[rows])
        counts = count_grades(some, bits, levels, threads)  # [Q, D, C]
        for k in ks:
            cut = items if k is None else min(k, items)
            ndcg[k][rows] = expected_ndcg(counts, cut, discounts)
            acg[k][rows] = expected_acg(counts, cut)
            wap[k][rows] = expected_wap(counts, cut, denominator)
    return GradedReport(ndcg, acg, wap)


def expected_ndcg(counts: Counts, k: int, discounts: Float64s) -> Float64s:
    """Expected NDCG@k, float64 [Q], from counts [Q, D, C].

    ``discounts[m]``, [N + 1], is the sum of the discounts of the first m ranks.
    """
    gain = np.exp2(np.arange(counts.shape[2])) - 1.0  # [C]
    items = counts.sum(axis=2)  # [Q, D]
    inside = np.minimum(np.cumsum(items, axis=1), k)  # [Q, D], ranks up to each group's end
    weights = np.diff(discounts[inside], axis=1, prepend=0.0)  # [Q, D], a group's ranks inside k
    dcg = (ratio(counts @ gain, items) * weights).sum(axis=1)  # [Q]
    best_first = np.minimum(np.cumsum(counts.sum(axis=1)[:, ::-1], axis=1), k)  # [Q, C]
    ideal = (gain[::-1] * np.diff(discounts[best_first], axis=1, prepend=0.0)).sum(axis=1)
    return ratio(dcg, ideal)


def expected_acg(counts: Counts, k: int) -> Float64s:
    """Expected mean grade of the first k items, float64 [Q], from counts [Q, D, C]."""
    items = counts.sum(axis=2)  # [Q, D]
    slots = np.diff(np.minimum(np.cumsum(items, axis=1), k), axis=1, prepend=0)  # [Q, D]
    mean = ratio(counts @ np.arange(counts.shape[2]), items)
    return np.asarray((mean * slots).sum(axis=1) / k)


def expected_wap(counts: Counts, k: int, denominator: Denominator) -> Float64s:
    """Expected weighted AP@k, float64 [Q], from counts [Q, D, C]."""
    items, relevant = counts.sum(axis=2), counts[:, :, 1:].sum(axis=2)  # [Q, D]
    gain = counts @ np.arange(counts.shape[2])
    return ties.expected_average_precision(Groups.of(items, relevant, gain), k, denominator)
