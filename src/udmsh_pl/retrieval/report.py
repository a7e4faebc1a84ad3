"""What exact evaluation found: every measure follows from the counts of items at each distance.

Letters in shapes: Q queries, D = bits + 1 distances (0 .. bits).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.bootstrap import bootstrap_interval
from udmsh_pl.retrieval.codes import Words
from udmsh_pl.retrieval.counting.kernel import Counts, each_stable_ranking
from udmsh_pl.retrieval.engine import Engine, each_faiss_ranking
from udmsh_pl.retrieval.extremes import extreme_average_precision
from udmsh_pl.retrieval.graded import GradedReport, graded_report
from udmsh_pl.retrieval.ranking import average_precision_of_ranks, hit_probability
from udmsh_pl.retrieval.ties import Denominator, Float64s, Groups, expected_average_precision, ratio

Ties = Literal["expected", "id"]
ZeroHits = Literal["zero", "drop"]
Cutoff = int | None


@dataclass(frozen=True)
class RetrievalReport:
    """What a set of codes is worth; ``None`` as a cut-off is the whole database.

    Args:
        bits: code length
        ks: cut-offs asked for
        items: int64 [Q, D], database items at each distance from each query
        relevant: the same, of relevant items alone
        words: codes of queries and database and their label masks, uint64, for the passes made
            later
        denominator: of AP@k: ``retrieved`` (relevant items inside k), ``min`` (min(k, R)) or
            ``total`` (R)
        ties: what ``map`` and ``average_precision`` hold: the exact expectation over orders of tied
            items, or ``id``
        zero_hits: queries without a hit count 0, or are dropped. Dropped from mAP@k: where no order
            of tied items gives a hit inside k (from ``map_id``: where that order gives none). From
            other means: where nothing is relevant
        threads: of the passes made later (order by row, graded metrics)
        engine: who ranks the database by row
        device: where ``faiss`` does

    Example:
        >>> from udmsh_pl.retrieval import evaluate_codes, pack_codes
        >>> query, database = pack_codes([[1, 1]]), pack_codes([[1, 1], [1, -1], [-1, -1]])
        >>> report = evaluate_codes(query, database, [[1]], [[1], [0], [1]], bits=2, ks=(2, None))
        >>> report.items.tolist(), report.relevant.tolist()  # at distance 0, 1 and 2
        ([[1, 1, 1]], [[1, 0, 1]])
        >>> report.precision_at(2), report.recall_at(2), report.hit_rate_at(2), report.map[2]
        (0.5, 0.5, 1.0, 1.0)
        >>> report.within_radius(0)
        {'precision': 1.0, 'recall': 0.5, 'empty': 0.0}
        >>> report.graded.acg[2]  # labels shared with the two nearest, on average
        0.5
    """

    bits: int
    ks: tuple[Cutoff, ...]
    items: Counts
    relevant: Counts
    words: tuple[Words, Words, Words, Words] = field(repr=False)
    denominator: Denominator = "retrieved"
    ties: Ties = "expected"
    zero_hits: ZeroHits = "zero"
    threads: int | None = None
    engine: Engine = "exact"
    device: str = "cpu"

    @cached_property
    def average_precision(self) -> dict[Cutoff, Float64s]:
        """AP@k of each query, float64 [Q], with ``ties`` as asked for."""
        return (
            self.expected_average_precision
            if self.ties == "expected"
            else self.id_average_precision
        )

    @cached_property
    def expected_average_precision(self) -> dict[Cutoff, Float64s]:
        """Exact expectation of AP@k over all orders of tied items, float64 [Q]."""
        return {
            k: expected_average_precision(self._groups, self._cut(k), self.denominator)
            for k in self.ks
        }

    @cached_property
    def id_average_precision(self) -> dict[Cutoff, Float64s]:
        """AP@k with ties ordered by database row, as FAISS's flat index returns them, float64 [Q].

        It takes a second pass over the database, or with ``engine="faiss"`` a search.
        """
        cuts = [self._cut(k) for k in self.ks]
        values = np.zeros((len(self.items), len(cuts)))
        everything = self.relevant.sum(axis=1)

        def score(row: int, ranks: npt.NDArray[np.int64]) -> None:
            relevant = int(everything[row])
            values[row] = average_precision_of_ranks(ranks, cuts, self.denominator, relevant)

        if self.engine == "faiss":
            each_faiss_ranking(*self.words, self.bits, max(cuts), score, self.device)
        else:
            each_stable_ranking(*self.words, self.items, self.relevant, score, self.threads)
        return {k: values[:, column] for column, k in enumerate(self.ks)}

    @cached_property
    def map(self) -> dict[Cutoff, float]:
        """mAP@k."""
        return self._means(self.average_precision) if self.ties == "expected" else self.map_id

    @cached_property
    def map_id(self) -> dict[Cutoff, float]:
        """mAP@k when ties are ordered by database row."""
        values = self.id_average_precision
        return self._means(values, {k: per_query > 0 for k, per_query in values.items()})

    @cached_property
    def map_worst(self) -> dict[Cutoff, float]:
        """mAP@k when irrelevant items come first in every tie."""
        return self._means({k: worst for k, (worst, _) in self._extremes.items()})

    @cached_property
    def map_best(self) -> dict[Cutoff, float]:
        """mAP@k when relevant items come first in every tie."""
        return self._means({k: best for k, (_, best) in self._extremes.items()})

    @cached_property
    def graded(self) -> GradedReport:
        """NDCG@k, ACG@k and WAP@k, expected over orders of tied items; takes another pass."""
        return graded_report(*self.words, self.bits, self.ks, self.denominator, self.threads)

    def interval(
        self, k: Cutoff, confidence: float = 0.95, samples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap confidence interval of ``map[k]`` over queries (see bootstrap.py)."""
        self._asked(k)
        values = self.average_precision[k]
        return bootstrap_interval(values[self._counted(k)], confidence, samples, seed)

    def relevant_in_top(self, k: Cutoff) -> Float64s:
        """Expected number of relevant items among the k nearest, float64 [Q]."""
        # ranks of each group inside k, [Q, D]
        slots = np.clip(self._cut(k) - self._groups.before, 0, self._groups.items)
        return np.asarray((ratio(self._groups.relevant, self._groups.items) * slots).sum(axis=1))

    def precision_at(self, k: Cutoff) -> float:
        """Mean precision among the k nearest (over k, or over the database where it is smaller)."""
        return self._mean(self.relevant_in_top(k) / self._cut(k))

    def recall_at(self, k: Cutoff) -> float:
        """Mean share of the relevant items that are among the k nearest; 0 where there are none."""
        return self._mean(
            ratio(self.relevant_in_top(k), self.relevant.sum(axis=1).astype(np.float64))
        )

    def hit_rate_at(self, k: Cutoff) -> float:
        """Mean probability of a relevant item among the k nearest, over random orders of ties."""
        return self._mean(hit_probability(self._groups, self._cut(k)))

    def within_radius(self, radius: int = 2) -> dict[str, float]:
        """Precision, recall and the share of empty lookups within a Hamming radius.

        Both count 0 for an empty lookup.
        """
        found = self.items[:, : radius + 1].sum(axis=1).astype(np.float64)  # [Q]
        hits = self.relevant[:, : radius + 1].sum(axis=1).astype(np.float64)
        return {
            "precision": self._mean(ratio(hits, found)),
            "recall": self._mean(ratio(hits, self.relevant.sum(axis=1).astype(np.float64))),
            "empty": float((found == 0).mean()),
        }

    def precision_recall_curve(self) -> tuple[Float64s, Float64s]:
        """Mean precision and mean recall at each radius 0..bits, float64 [bits + 1] each.

        The precision of an empty lookup counts 0.
        """
        found, hits = np.cumsum(self.items, axis=1), np.cumsum(self.relevant, axis=1)  # [Q, D]
        precision = ratio(hits.astype(np.float64), found.astype(np.float64))
        recall = ratio(
            hits.astype(np.float64), self.relevant.sum(axis=1, keepdims=True).astype(np.float64)
        )
        keep = self._kept  # [Q]
        return precision[keep].mean(axis=0), recall[keep].mean(axis=0)

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.items, self.relevant)

    @cached_property
    def _extremes(self) -> dict[Cutoff, tuple[Float64s, Float64s]]:
        return {
            k: extreme_average_precision(self._groups, self._cut(k), self.denominator)
            for k in self.ks
        }

    @cached_property
    def _kept(self) -> npt.NDArray[np.bool_]:
        hits = self.relevant.sum(axis=1) > 0
        return hits if self.zero_hits == "drop" and hits.any() else np.ones(len(hits), dtype=bool)

    def _cut(self, k: Cutoff) -> int:
        total = int(self.items[0].sum())
        return total if k is None else min(k, total)

    def _mean(self, values: Float64s) -> float:
        return float(values[self._kept].mean())

    def _means(
        self, values: dict[Cutoff, Float64s], hit: dict[Cutoff, npt.NDArray[np.bool_]] | None = None
    ) -> dict[Cutoff, float]:
        kept = {
            k: self._counted(k) if hit is None or self.zero_hits == "zero" else hit[k]
            for k in values
        }
        return {
            k: float(per_query[kept[k]].mean()) if kept[k].any() else 0.0
            for k, per_query in values.items()
        }

    def _counted(self, k: Cutoff) -> npt.NDArray[np.bool_]:
        if self.zero_hits == "zero":
            return np.ones(len(self.items), dtype=bool)
        return np.asarray(self._extremes[k][1] > 0)

    def _asked(self, k: Cutoff) -> None:
        if k not in self.ks:
            raise InputError(f"k={k} was not scored: add it to ks, which is {list(self.ks)}")
