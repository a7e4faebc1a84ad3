"""Measures: the rows of a result. Each is one function, ``RetrievalReport -> list[Measure]``.

A plan may name your own function too (``measures: [my_module.my_measure]``).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import popcounts
from udmsh_pl.retrieval.evaluation import RetrievalReport
from udmsh_pl.retrieval.ties import Cutoff

# the rows that every run has
MEASURES = ("mean_average_precision", "mean_average_precision_by_row")


@dataclass(frozen=True)
class Measure:
    """One number: a row of ``results.csv``, a point in a logger, a line of ``udmsh evaluate``.

    The ends ``lower`` and ``upper`` are over orders of tied items, None where not computed.
    ``ties`` are ``expected`` over all orders of tied items, or ``id``, by database row.
    """

    name: str
    k: Cutoff
    value: float
    lower: float | None = None
    upper: float | None = None
    ties: str = "expected"

    @property
    def cutoff(self) -> str:
        """``k`` as it stands in files: a number or ``all``."""
        return "all" if self.k is None else str(self.k)

    @property
    def title(self) -> str:
        """Name in a table: ``mAP@1000``, ``precision@10``."""
        return f"{'mAP' if self.name == 'map' else self.name}@{self.cutoff.upper()}"

    @property
    def key(self) -> str:
        """Name in a logger: ``map@1000``, ``map@all``, ``map_id@all``."""
        return f"{self.name}{'' if self.ties == 'expected' else '_id'}@{self.cutoff}"


MeasureFunction = Callable[[RetrievalReport], list[Measure]]


def mean_average_precision(report: RetrievalReport) -> list[Measure]:
    """mAP at each cut-off: its expectation over orders of tied items, between worst and best.

    >>> import numpy as np
    >>> from udmsh_pl.retrieval import evaluate_codes
    >>> codes, labels = np.array([[0], [255]], np.uint8), np.eye(2, dtype=bool)
    >>> report = evaluate_codes(codes, codes, labels, labels, bits=8, ks=[1])
    >>> mean_average_precision(report)[0].key, mean_average_precision(report)[0].value
    ('map@1', 1.0)
    """
    return [
        Measure("map", k, report.map[k], report.map_worst[k], report.map_best[k]) for k in report.ks
    ]


def mean_average_precision_by_row(report: RetrievalReport) -> list[Measure]:
    """mAP at each cut-off with ties in the order of the database, as FAISS's flat index ranks."""
    return [
        Measure("map", k, report.map_id[k], report.map_worst[k], report.map_best[k], ties="id")
        for k in report.ks
    ]


def precision(report: RetrievalReport) -> list[Measure]:
    """Expected precision among the k nearest."""
    return [Measure("precision", k, report.precision_at(k)) for k in report.ks if k is not None]


def recall(report: RetrievalReport) -> list[Measure]:
    """Expected share of the relevant items that are among the k nearest."""
    return [Measure("recall", k, report.recall_at(k)) for k in report.ks if k is not None]


def ndcg(report: RetrievalReport) -> list[Measure]:
    """Expected NDCG at each cut-off, graded by the number of shared labels."""
    return [Measure("ndcg", k, value) for k, value in report.graded.ndcg.items()]


def graded_first_page(report: RetrievalReport) -> list[Measure]:
    """Expected NDCG@100 by shared labels, where items have several and 100 is a cut-off."""
    if 100 not in report.ks or popcounts(report.words.database_labels).max(initial=0) < 2:
        return []
    return [Measure("ndcg", 100, report.graded.ndcg[100])]


def named_measure(name: str) -> MeasureFunction:
    """The function of this module, or of ``my_module``; raises ``InputError`` if there is none."""
    module_name, _, attribute = name.rpartition(".")
    try:
        module: Any = importlib.import_module(module_name or __name__)
    except ImportError as error:
        raise InputError(f"measure {name!r}: {error}; give the name of a module here") from error
    function: Any = getattr(module, attribute, None)
    if not callable(function):
        here = ", ".join([*MEASURES, "precision", "recall", "ndcg", "graded_first_page"])
        raise InputError(
            f"measure {name!r} is not known; there are {here}, or my_module.my_measure"
        )
    return function  # type: ignore[no-any-return]
