"""``evaluate_codes``: every retrieval measure of a set of codes from one pass over the database.

All measures follow from the counts of items at each Hamming distance; the report computes each when
it is asked for. Letters in shapes: Q queries, N items, D = bits + 1 distances (0 .. bits).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import codes, ties
from udmsh_pl.retrieval.bootstrap import bootstrap_interval
from udmsh_pl.retrieval.codes import Bools, WordArrays
from udmsh_pl.retrieval.counting import Counts, count_distances, each_stable_ranking
from udmsh_pl.retrieval.graded import GradedReport, graded_report
from udmsh_pl.retrieval.ties import Cutoff, Denominator, Float64s, Groups, ratio

Engine = Literal["exact", "faiss"]
Ties = Literal["expected", "id"]
ZeroHits = Literal["zero", "drop"]
FOUND_AT_ONCE = 1 << 23  # neighbours that FAISS returns at a time: 100 MB of distances and rows


@dataclass(frozen=True)
class Evaluation:
    """How codes are scored. Every choice gives the same counts, at another cost.

    Args:
        engine: ``exact`` counts; ``faiss`` also ranks the database with a FAISS binary index, from
            which mAP in order of rows comes
        device: ``cuda`` counts, and FAISS ranks, on a GPU; null for the processor
    """

    engine: Engine = "exact"
    device: str | None = None

    def check(self) -> None:
        """Raise ``InputError``, before anything is trained, for what this machine cannot do."""
        _check_choice("engine", self.engine, Engine)
        if self.device not in (None, "cpu"):
            from udmsh_pl.retrieval.gpu import checked_device, faiss_has_gpu

            checked_device(self.device)
            if self.engine == "faiss":
                faiss_has_gpu()


@dataclass(frozen=True)
class RetrievalReport:
    """Measures of a set of codes; ``None`` as a cut-off is the whole database.

    Args:
        items: int64 [Q, D], database items at each distance from each query
        relevant: the same, of relevant items alone
        words: codes and label masks, for the passes made later (order by row, graded metrics)
        zero_hits: queries without a hit count 0, or are dropped: from mAP@k if no order of ties
            gives a hit inside k, from ``map_id`` if the order of rows gives none, from other means
            if nothing is relevant

    The others are as of :func:`evaluate_codes`.

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
    words: WordArrays = field(repr=False)
    denominator: Denominator
    ties: Ties
    zero_hits: ZeroHits
    threads: int | None
    engine: Engine
    device: str

    @property
    def average_precision(self) -> dict[Cutoff, Float64s]:
        """AP@k of each query, float64 [Q], with ``ties`` as asked for."""
        by_row = self.ties == "id"
        return self.id_average_precision if by_row else self.expected_average_precision

    @cached_property
    def expected_average_precision(self) -> dict[Cutoff, Float64s]:
        """Exact expectation of AP@k over all orders of tied items, float64 [Q]."""
        kind = self.denominator
        mean = ties.expected_average_precision
        return {k: mean(self._groups, self._cut(k), kind) for k in self.ks}

    @cached_property
    def id_average_precision(self) -> dict[Cutoff, Float64s]:
        """AP@k with ties by database row, as of FAISS's flat index, float64 [Q]: another pass."""
        cuts = [self._cut(k) for k in self.ks]
        values = np.zeros((len(self.items), len(cuts)))
        everything = self.relevant.sum(axis=1)

        def score(row: int, ranks: Counts) -> None:
            relevant = int(everything[row])
            values[row] = ties.average_precision_of_ranks(ranks, cuts, self.denominator, relevant)

        if self.engine == "faiss":
            each_faiss_ranking(self.words, self.bits, max(cuts), score, self.device)
        else:
            each_stable_ranking(self.words, self.items, self.relevant, score, self.threads)
        return {k: values[:, column] for column, k in enumerate(self.ks)}

    @property
    def map(self) -> dict[Cutoff, float]:
        """mAP@k."""
        return self.map_id if self.ties == "id" else self._means(self.average_precision)

    @property
    def map_id(self) -> dict[Cutoff, float]:
        """mAP@k when ties are ordered by database row."""
        values = self.id_average_precision
        return self._means(values, {k: per_query > 0 for k, per_query in values.items()})

    @property
    def map_worst(self) -> dict[Cutoff, float]:
        """mAP@k when irrelevant items come first in every tie."""
        return self._means({k: worst for k, (worst, _) in self._extremes.items()})

    @property
    def map_best(self) -> dict[Cutoff, float]:
        """mAP@k when relevant items come first in every tie."""
        return self._means({k: best for k, (_, best) in self._extremes.items()})

    @cached_property
    def graded(self) -> GradedReport:
        """NDCG@k, ACG@k and WAP@k, expected over orders of tied items; takes another pass."""
        return graded_report(self.words, self.bits, self.ks, self.denominator, self.threads)

    def interval(
        self, k: Cutoff, confidence: float = 0.95, samples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap confidence interval of ``map[k]`` over queries (see bootstrap.py)."""
        if k not in self.ks:
            raise InputError(f"k={k} was not scored: add it to ks, which is {list(self.ks)}")
        values = self.average_precision[k][self._counted(k)]
        return bootstrap_interval(values, confidence, samples, seed)

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
        return self._mean(ratio(self.relevant_in_top(k), self.relevant.sum(axis=1)))

    def hit_rate_at(self, k: Cutoff) -> float:
        """Mean probability of a relevant item among the k nearest, over random orders of ties."""
        return self._mean(ties.hit_probability(self._groups, self._cut(k)))

    def within_radius(self, radius: int = 2) -> dict[str, float]:
        """Precision, recall (0 for an empty lookup) and the share of empty lookups in a radius."""
        found, hits = (x[:, : radius + 1].sum(axis=1) for x in (self.items, self.relevant))  # [Q]
        return {
            "precision": self._mean(ratio(hits, found)),
            "recall": self._mean(ratio(hits, self.relevant.sum(axis=1))),
            "empty": float((found == 0).mean()),
        }

    def precision_recall_curve(self) -> tuple[Float64s, Float64s]:
        """Mean precision (0 for an empty lookup) and recall at radius 0..bits, float64 [D]."""
        found, hits = (np.cumsum(x, axis=1)[self._kept] for x in (self.items, self.relevant))
        return ratio(hits, found).mean(axis=0), ratio(hits, hits[:, -1:]).mean(axis=0)

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.items, self.relevant)

    @cached_property
    def _extremes(self) -> dict[Cutoff, tuple[Float64s, Float64s]]:
        kind = self.denominator
        both = ties.extreme_average_precision
        return {k: both(self._groups, self._cut(k), kind) for k in self.ks}

    @cached_property
    def _kept(self) -> Bools:
        hits = self.relevant.sum(axis=1) > 0
        return hits if self.zero_hits == "drop" and hits.any() else np.ones(len(hits), dtype=bool)

    def _cut(self, k: Cutoff) -> int:
        total = int(self.items[0].sum())
        return total if k is None else min(k, total)

    def _mean(self, values: Float64s) -> float:
        return float(values[self._kept].mean())

    def _means(
        self, values: dict[Cutoff, Float64s], hit: dict[Cutoff, Bools] | None = None
    ) -> dict[Cutoff, float]:
        means = {}
        for k, per_query in values.items():
            kept = per_query[hit[k] if hit and self.zero_hits == "drop" else self._counted(k)]
            means[k] = float(kept.mean()) if len(kept) else 0.0
        return means

    def _counted(self, k: Cutoff) -> Bools:
        if self.zero_hits == "zero":
            return np.ones(len(self.items), dtype=bool)
        return np.asarray(self._extremes[k][1] > 0)


def evaluate_codes(
    query_codes: Any, database_codes: Any, query_labels: Any, database_labels: Any, bits: int,
    ks: Sequence[Cutoff] = (1000, 5000, None), ties: Ties = "expected",
    denominator: Denominator = "retrieved", zero_hits: ZeroHits = "zero",
    threads: int | None = None, device: str | None = None, engine: Engine = "exact",
) -> RetrievalReport:  # fmt: skip
    """Score packed codes, exact under ties.

    Definitions: McSherry & Najork, ECIR 2008 (*stated*); ties.py says which part is ours.

    Args:
        query_codes: uint8 [Q, ceil(bits / 8)], from :func:`pack_codes`
        database_codes: uint8 [N, ceil(bits / 8)]
        query_labels: bool [Q, L]; an item is relevant when it shares a label with the query
        database_labels: bool [N, L]
        bits: code length
        ks: cut-offs of mAP@k; None, or a k beyond the database, is the whole database
        ties: what ``map`` and ``average_precision`` hold: ``expected``, the exact expectation over
            all orders of tied items, or ``id``, by database row
        denominator: of AP@k: ``retrieved`` (relevant items inside k), ``min`` (min(k, R)) or
            ``total`` (R)
        zero_hits: queries without a hit count ``zero``, or ``drop`` out of the means
        threads: None for all cores
        device: a CUDA device of torch for the pass over the database; None for the processor
        engine: what ranks the database for mAP by row; see :class:`Evaluation`

    Raises ``InputError``: shapes, dtypes or settings do not fit; the message names the argument.

    Example:
        Two items are equally far from the query, and one of them is relevant. Which comes first is
        chance, so mAP@1 is 1/2 in expectation, and anything from 0 to 1 by the order of rows:

        >>> from udmsh_pl.retrieval import evaluate_codes, pack_codes
        >>> query = pack_codes([[1, 1, 1, 1]])
        >>> database = pack_codes([[1, 1, 1, -1], [1, 1, -1, 1], [-1, -1, -1, -1]])
        >>> report = evaluate_codes(query, database, [[1]], [[1], [0], [1]], bits=4, ks=(1, None))
        >>> report.map[1], report.map_worst[1], report.map_best[1], report.map_id[1]
        (0.5, 0.0, 1.0, 1.0)
    """
    query = codes.check_codes(query_codes, bits, "query_codes")
    database = codes.check_codes(database_codes, bits, "database_codes")
    wanted = codes.check_labels(query_labels, len(query), "query_labels")
    have = codes.check_labels(database_labels, len(database), "database_labels")
    if wanted.shape[1] != have.shape[1]:
        columns = f"query_labels has {wanted.shape[1]} columns, database_labels {have.shape[1]}"
        raise InputError(f"{columns}: use one label set")
    if not len(query) or not len(database):
        raise InputError("there is nothing to score: give at least one query and one database code")
    cutoffs = check_cutoffs(ks)
    _check_choice("ties", ties, Ties)
    _check_choice("denominator", denominator, Denominator)
    _check_choice("zero_hits", zero_hits, ZeroHits)
    Evaluation(engine, device).check()
    packed = map(codes.code_words, (query, database))
    words, place = WordArrays(*packed, *map(codes.label_words, (wanted, have))), device or "cpu"
    counts = count_distances(words, bits, threads, place)  # [Q, bits + 1] each
    choices: tuple[Any, ...] = denominator, ties, zero_hits, threads, engine, place
    return RetrievalReport(bits, cutoffs, *counts, words, *choices)


def _check_choice(name: str, value: object, known: Any) -> None:
    if value not in get_args(known):
        raise InputError(f"{name} is {value!r}: give one of {', '.join(get_args(known))}")


def check_cutoffs(ks: Sequence[Cutoff]) -> tuple[Cutoff, ...]:
    """Check cut-offs (whole numbers from 1, None for ALL) and drop repeated ones."""
    for k in ks:
        if k is not None and (isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1):
            rule = "a cut-off is a whole number from 1, or None for the whole database"
            raise InputError(f"ks is {list(ks)}: {rule}")
    if not len(ks):
        raise InputError("ks is empty: give at least one cut-off, None for the whole database")
    return tuple(dict.fromkeys(None if k is None else int(k) for k in ks))


def each_faiss_ranking(
    words: WordArrays, bits: int, k: int, score: Callable[[int, Counts], None],
    device: str = "cpu", found_at_once: int = FOUND_AT_ONCE,
) -> None:  # fmt: skip
    """Rank the k (at most N) nearest items of each query with a flat FAISS index, ties by row.

    ``score`` is called with a query's number and the ranks, int64 ascending from 1, of the relevant
    items among its k nearest. ``found_at_once`` neighbours a search bound memory.
    """
    from udmsh_pl.retrieval.index import BinaryIndex

    octets = (some.view(np.uint8)[:, : (bits + 7) // 8] for some in words[:2])
    query, database = map(np.ascontiguousarray, octets)
    index = BinaryIndex(bits, device=device)
    index.add(database)
    at_once = max(1, found_at_once // k)
    for start in range(0, len(query), at_once):
        _, rows = index.search(query[start : start + at_once], k)
        for number, found in enumerate(rows, start):
            shared = words.database_labels[found] & words.query_labels[number]
            score(number, np.flatnonzero(shared.any(axis=1)) + 1)
