"""``evaluate_codes``: every retrieval measure of a set of codes from one pass over the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Words, check_codes, check_labels, code_words, label_words
from udmsh_pl.retrieval.extremes import extreme_average_precision
from udmsh_pl.retrieval.kernel import Counts, count_distances, id_stable_positions
from udmsh_pl.retrieval.ties import Denominator, Floats, Groups, expected_average_precision, ratio

Ties = Literal["expected", "id"]
ZeroHits = Literal["zero", "drop"]
Cutoff = int | None


@dataclass(frozen=True)
class RetrievalReport:
    """What a set of codes is worth; ``None`` as a cut-off is the whole database.

    Args:
        bits: code length
        ks: cut-offs asked for
        items: int64 [Q, bits + 1], database items at each distance from each query
        relevant: the same, of relevant items alone
        denominator: of AP@k: ``retrieved`` (relevant items inside k), ``min`` (min(k, R)) or ``total`` (R)
        ties: what ``map`` and ``average_precision`` hold: the exact expectation over orders of tied items, or ``id``
        zero_hits: a query without a relevant item counts 0, or is dropped from means
    """

    bits: int
    ks: tuple[Cutoff, ...]
    items: Counts
    relevant: Counts
    denominator: Denominator = "retrieved"
    ties: Ties = "expected"
    zero_hits: ZeroHits = "zero"
    _words: tuple[Words, ...] = field(default=(), repr=False)

    @cached_property
    def average_precision(self) -> dict[Cutoff, Floats]:
        """AP@k of each query, float64 [Q], with ``ties`` as asked for."""
        return self.expected_average_precision if self.ties == "expected" else self.id_average_precision

    @cached_property
    def expected_average_precision(self) -> dict[Cutoff, Floats]:
        """Exact expectation of AP@k over all orders of tied items, float64 [Q]."""
        return {k: expected_average_precision(self._groups, self._cut(k), self.denominator) for k in self.ks}

    @cached_property
    def id_average_precision(self) -> dict[Cutoff, Floats]:
        """AP@k when ties are ordered by database row (what FAISS's flat index returns), float64 [Q]; a second pass."""
        places = id_stable_positions(*self._words, self.items, self.relevant)
        return {k: np.array([self._ap_of_places(p, self._cut(k)) for p in places]) for k in self.ks}

    @cached_property
    def map(self) -> dict[Cutoff, float]:
        """mAP@k."""
        return self._means(self.average_precision)

    @cached_property
    def map_id(self) -> dict[Cutoff, float]:
        """mAP@k when ties are ordered by database row."""
        return self._means(self.id_average_precision)

    @cached_property
    def map_worst(self) -> dict[Cutoff, float]:
        """mAP@k when irrelevant items come first in every tie."""
        return self._means({k: worst for k, (worst, _) in self._extremes.items()})

    @cached_property
    def map_best(self) -> dict[Cutoff, float]:
        """mAP@k when relevant items come first in every tie."""
        return self._means({k: best for k, (_, best) in self._extremes.items()})

    def relevant_in_top(self, k: Cutoff) -> Floats:
        """Expected number of relevant items among the k nearest, float64 [Q]."""
        slots = np.clip(self._cut(k) - self._groups.before, 0, self._groups.items)
        return np.asarray((ratio(self._groups.relevant, self._groups.items) * slots).sum(axis=1))

    def precision_at(self, k: Cutoff) -> float:
        """Mean precision among the k nearest (over k, or over the database where it is smaller)."""
        return self._mean(self.relevant_in_top(k) / self._cut(k))

    def recall_at(self, k: Cutoff) -> float:
        """Mean share of all relevant items that are among the k nearest; 0 without relevant items."""
        return self._mean(ratio(self.relevant_in_top(k), self.relevant.sum(axis=1).astype(np.float64)))

    def hit_rate_at(self, k: Cutoff) -> float:
        """Mean probability that at least one of the k nearest is relevant, over random orders of ties."""
        cut, groups = self._cut(k), self._groups
        slots = np.clip(cut - groups.before, 0, groups.items)
        whole = ((slots == groups.items) & (groups.relevant > 0)).any(axis=1)
        partial = (slots > 0) & (slots < groups.items)
        # no hit among s of n items, r of them relevant: prod_{i<r} (n - s - i) / (n - i)
        miss = np.ones(len(whole))
        for row, column in zip(*np.nonzero(partial & (groups.relevant > 0)), strict=True):
            n, r, s = groups.items[row, column], int(groups.relevant[row, column]), slots[row, column]
            i = np.arange(r)
            miss[row] = np.prod(np.maximum(n - s - i, 0) / (n - i))
        return self._mean(np.where(whole, 1.0, 1.0 - miss))

    def within_radius(self, radius: int = 2) -> dict[str, float]:
        """Precision (empty lookups count 0), recall, and the share of empty lookups within a Hamming radius."""
        found = self.items[:, : radius + 1].sum(axis=1).astype(np.float64)
        hits = self.relevant[:, : radius + 1].sum(axis=1).astype(np.float64)
        return {
            "precision": self._mean(ratio(hits, found)),
            "recall": self._mean(ratio(hits, self.relevant.sum(axis=1).astype(np.float64))),
            "empty": float((found == 0).mean()),
        }

    def precision_recall_curve(self) -> tuple[Floats, Floats]:
        """Mean precision and mean recall at each radius 0..bits, float64 [bits + 1] each; empty lookups count 0."""
        found, hits = np.cumsum(self.items, axis=1), np.cumsum(self.relevant, axis=1)
        precision = ratio(hits.astype(np.float64), found.astype(np.float64))
        recall = ratio(hits.astype(np.float64), self.relevant.sum(axis=1, keepdims=True).astype(np.float64))
        keep = self._kept
        return precision[keep].mean(axis=0), recall[keep].mean(axis=0)

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.items, self.relevant)

    @cached_property
    def _extremes(self) -> dict[Cutoff, tuple[Floats, Floats]]:
        return {k: extreme_average_precision(self._groups, self._cut(k), self.denominator) for k in self.ks}

    @cached_property
    def _kept(self) -> npt.NDArray[np.bool_]:
        hits = self.relevant.sum(axis=1) > 0
        return hits if self.zero_hits == "drop" and hits.any() else np.ones(len(hits), dtype=bool)

    def _cut(self, k: Cutoff) -> int:
        total = int(self.items[0].sum())
        return total if k is None else min(k, total)

    def _mean(self, values: Floats) -> float:
        return float(values[self._kept].mean())

    def _means(self, values: dict[Cutoff, Floats]) -> dict[Cutoff, float]:
        return {k: self._mean(per_query) for k, per_query in values.items()}

    def _ap_of_places(self, places: npt.NDArray[np.int64], k: int) -> float:
        inside = places[places <= k]
        total = {"retrieved": len(inside), "min": min(k, len(places)), "total": len(places)}[self.denominator]
        return float((np.arange(1, len(inside) + 1) / inside).sum() / total) if total else 0.0


def evaluate_codes(
    query_codes: Any,
    database_codes: Any,
    query_labels: Any,
    database_labels: Any,
    bits: int,
    ks: Sequence[Cutoff] = (1000, 5000, None),
    ties: Ties = "expected",
    denominator: Denominator = "retrieved",
    zero_hits: ZeroHits = "zero",
    threads: int | None = None,
) -> RetrievalReport:
    """Score packed codes, exact under ties (definitions: McSherry & Najork, ECIR 2008; see ties.py).

    Args:
        query_codes: uint8 [Q, ceil(bits / 8)], from :func:`pack_codes`
        database_codes: uint8 [N, ceil(bits / 8)]
        query_labels: bool [Q, L]; an item is relevant when it shares a label with the query
        database_labels: bool [N, L]
        bits: code length
        ks: cut-offs of mAP@k; None, or a k beyond the database, is the whole database
        ties: ``expected`` (over all orders of tied items) or ``id`` (by database row)
        denominator: of AP@k: ``retrieved``, ``min`` or ``total``
        zero_hits: queries without a relevant item count ``zero`` or ``drop`` out
        threads: None for all cores

    Raises:
        InputError: shapes, dtypes or settings do not fit each other; the message names the argument.
    """
    query, database = check_codes(query_codes, bits, "query_codes"), check_codes(database_codes, bits, "database_codes")
    wanted = check_labels(query_labels, len(query), "query_labels")
    have = check_labels(database_labels, len(database), "database_labels")
    if wanted.shape[1] != have.shape[1]:
        raise InputError(
            f"query_labels has {wanted.shape[1]} columns, database_labels {have.shape[1]}: use one label set"
        )
    if not len(query) or not len(database):
        raise InputError("there is nothing to score: give at least one query and one database code")
    if any(k is not None and k < 1 for k in ks):
        raise InputError(f"ks is {list(ks)}: a cut-off is at least 1, or None for the whole database")
    for name, value, known in (
        ("ties", ties, ("expected", "id")),
        ("denominator", denominator, ("retrieved", "min", "total")),
        ("zero_hits", zero_hits, ("zero", "drop")),
    ):
        if value not in known:
            raise InputError(f"{name} is {value!r}: give one of {', '.join(known)}")
    words = (code_words(query), code_words(database), label_words(wanted), label_words(have))
    items, relevant = count_distances(*words, bits, threads)
    return RetrievalReport(bits, tuple(ks), items, relevant, denominator, ties, zero_hits, words)
