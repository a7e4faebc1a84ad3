"""``evaluate_codes``: every retrieval measure of a set of codes from one pass over the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import check_codes, check_labels, code_words, label_words
from udmsh_pl.retrieval.counting.kernel import count_distances
from udmsh_pl.retrieval.engine import Engine, Evaluation
from udmsh_pl.retrieval.report import Cutoff, RetrievalReport, Ties, ZeroHits
from udmsh_pl.retrieval.ties import Denominator

__all__ = ["Cutoff", "RetrievalReport", "Ties", "ZeroHits", "check_cutoffs", "evaluate_codes"]


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
    device: str | None = None,
    engine: Engine = "exact",
) -> RetrievalReport:
    """Score packed codes, exact under ties.

    Definitions: McSherry & Najork, ECIR 2008 (*stated*); ties.py says which part is ours.

    Args:
        query_codes: uint8 [Q, ceil(bits / 8)], from :func:`pack_codes`
        database_codes: uint8 [N, ceil(bits / 8)]
        query_labels: bool [Q, L]; an item is relevant when it shares a label with the query
        database_labels: bool [N, L]
        bits: code length
        ks: cut-offs of mAP@k; None, or a k beyond the database, is the whole database
        ties: ``expected`` (over all orders of tied items) or ``id`` (by database row)
        denominator: of AP@k: ``retrieved``, ``min`` or ``total``
        zero_hits: queries without a hit count ``zero``, or ``drop`` out of the means (see
            RetrievalReport)
        threads: None for all cores
        device: a CUDA device of torch for the pass over the database; None for the processor
        engine: who ranks the database for mAP by row: this evaluator, or ``faiss`` (its
            binary index, on ``device`` too); see :class:`udmsh_pl.retrieval.engine.Evaluation`

    Raises:
        InputError: shapes, dtypes or settings do not fit each other; the message names the
            argument.

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
    query = check_codes(query_codes, bits, "query_codes")
    database = check_codes(database_codes, bits, "database_codes")
    wanted = check_labels(query_labels, len(query), "query_labels")
    have = check_labels(database_labels, len(database), "database_labels")
    if wanted.shape[1] != have.shape[1]:
        raise InputError(
            f"query_labels has {wanted.shape[1]} columns, database_labels {have.shape[1]}: use one "
            "label set"
        )
    if not len(query) or not len(database):
        raise InputError("there is nothing to score: give at least one query and one database code")
    cutoffs = check_cutoffs(ks)
    for name, value, known in (
        ("ties", ties, ("expected", "id")),
        ("denominator", denominator, ("retrieved", "min", "total")),
        ("zero_hits", zero_hits, ("zero", "drop")),
    ):
        if value not in known:
            raise InputError(f"{name} is {value!r}: give one of {', '.join(known)}")
    Evaluation(engine, device).check()
    place = device or "cpu"
    words = (code_words(query), code_words(database), label_words(wanted), label_words(have))
    items, relevant = count_distances(*words, bits, threads, place)  # [Q, bits + 1] each
    return RetrievalReport(
        bits,
        cutoffs,
        items,
        relevant,
        words,
        denominator,
        ties,
        zero_hits,
        threads,
        engine,
        place,
    )


def check_cutoffs(ks: Sequence[Cutoff]) -> tuple[Cutoff, ...]:
    """Check cut-offs (whole numbers from 1, None for ALL); repeated ones go.

    Raises ``InputError``.
    """
    for k in ks:
        if k is not None and (isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1):
            raise InputError(
                f"ks is {list(ks)}: a cut-off is a whole number from 1, or None for the whole "
                "database"
            )
    if not len(ks):
        raise InputError("ks is empty: give at least one cut-off, None for the whole database")
    return tuple(dict.fromkeys(None if k is None else int(k) for k in ks))
