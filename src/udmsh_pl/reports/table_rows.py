"""Rows of ``results.csv`` and of each cell's ``rows.csv``: how they are written and read."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import csv_text, write_text


class Cell(NamedTuple):
    """One thing to train and score; its fields stand in every row of ``results.csv``.

    ``bits`` is the code length K, 0 for real-valued features.
    """

    method: str
    bits: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's folder and of its run in a logger."""
        return "-".join(str(part) for part in self)


@dataclass(frozen=True)
class Grid:
    """What a report asks of a plan, :class:`udmsh_pl.runs.plan.Plan`."""

    bits: Sequence[int]  # code lengths
    seeds: Sequence[int]
    ks: Sequence[int | None]  # cut-offs of mAP; None is the whole database
    methods: Mapping[str, Any]  # by name, in order


def learns_from_labels(method: str) -> bool:
    """Whether a method is an upper bound by labels, which no unsupervised one is compared with."""
    return "(labels)" in method


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds, and standard deviation; None for a single seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Result:
    """One row of ``results.csv``: a value with everything that it depends on.

    ``k`` is ``all`` for the whole database, ``bits`` 0 for real-valued features; ``lower`` and
    ``upper`` are the worst and the best case over orders of tied items. ``seconds`` is the time of
    training with its teacher, ``encode_seconds`` that of encoding queries and database, both on
    cached backbone features; ``peak_gb`` the process's largest memory so far.
    """

    dataset: str
    protocol: str
    split_sha256: str
    method: str
    backbone: str
    bits: int
    seed: int
    metric: str
    k: str
    ties: str
    denominator: str
    value: float
    lower: float
    upper: float
    seconds: float
    encode_seconds: float
    peak_gb: float
    version: str

    @property
    def cell(self) -> Cell:
        """What was run: method, bits, seed."""
        return Cell(self.method, self.bits, self.seed)


COLUMNS = tuple(column.name for column in fields(Result))
_TYPES: dict[str, Any] = {column.name: column.type for column in fields(Result)}


def read_results(path: Path) -> list[Result]:
    """Read ``results.csv``.

    Raises ``InputError``: the file is absent, is no UTF-8 text, or a line does not have the columns
    of :class:`Result`, holds a number that is none, or repeats an earlier line's measure.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `udmsh reproduce` first")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; remove it and run again") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    results: list[Result] = []
    seen: dict[tuple[object, ...], int] = {}
    try:
        for line in reader:
            if reader.line_num == 1:
                if tuple(line) != COLUMNS:
                    raise ValueError(f"expected the columns {','.join(COLUMNS)}")
                continue
            result = _result(line)
            key = (*result.cell, result.metric, result.k, result.ties)
            if key in seen:
                raise ValueError(f"the same measure as on line {seen[key]}")
            seen[key] = reader.line_num
            results.append(result)
    except (ValueError, csv.Error) as error:
        mend = "mend it, or remove the file and run again"
        raise InputError(f"{path}:{max(reader.line_num, 1)}: {error}; {mend}") from error
    return results


def _result(line: list[str]) -> Result:
    if len(line) != len(COLUMNS):
        raise ValueError(f"{len(line)} fields where there are {len(COLUMNS)} columns")
    values = {name: _TYPES[name](text) for name, text in zip(COLUMNS, line, strict=True)}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, not a number")
    return Result(**values)


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write ``results.csv``, whole or not at all."""
    write_text(path, csv_text([COLUMNS, *map(astuple, results)]))
