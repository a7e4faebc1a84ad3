"""results.csv, and the table made of it: mean and spread over seeds."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from udmsh_pl.errors import InputError
from udmsh_pl.files import write_text

Format = Literal["markdown", "csv", "latex"]


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
    def cell(self) -> tuple[str, int, int]:
        """What was run: method, bits, seed."""
        return self.method, self.bits, self.seed


COLUMNS = tuple(column.name for column in fields(Result))
_NUMBERS = ("value", "lower", "upper", "seconds", "encode_seconds", "peak_gb")
_TYPES: dict[str, Any] = {"bits": int, "seed": int} | dict.fromkeys(_NUMBERS, float)


def read_results(path: Path) -> list[Result]:
    """Read ``results.csv``.

    Raises:
        InputError: the file is absent, or a line does not have the columns of :class:`Result`.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `udmsh reproduce` first")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
        results = []
        for line in reader:
            try:
                results.append(
                    Result(**{name: _TYPES.get(name, str)(line[name]) for name in COLUMNS})
                )
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{path}:{reader.line_num}: {error}; remove the line and run again"
                ) from error
    return results


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write ``results.csv``, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    write_text(path, text.getvalue())


def render_table(results: Sequence[Result], form: Format = "markdown") -> str:
    """mAP per method and bits as mean ± standard deviation over seeds; the protocol stands above
    it.

    The best mean of a column is bold only when it is ahead of every other by more than the two
    spreads together.
    """
    chosen = [result for result in results if result.metric == "map" and result.ties != "id"]
    if not chosen:
        raise InputError("there are no mAP rows in the results; run `udmsh reproduce` first")
    methods = list(dict.fromkeys(result.method for result in chosen))
    columns = sorted(
        {(result.k, result.bits) for result in chosen if result.bits},
        key=lambda column: (column[0] == "all", *_order(column)),
    )
    header = ["method", *(f"mAP@{'ALL' if k == 'all' else k}, {bits} bits" for k, bits in columns)]
    values = {
        (method, column): [
            r.value
            for r in chosen
            if r.method == method and r.k == column[0] and r.bits in (column[1], 0)
        ]
        for method in methods
        for column in columns
    }
    best = {
        column: _clear_winner({method: values[method, column] for method in methods})
        for column in columns
    }
    rows = [
        [
            method,
            *(_cell(values[method, column], method == best[column], form) for column in columns),
        ]
        for method in methods
    ]
    if form == "csv":
        return "\n".join(
            ",".join(row) for row in [[name.replace(", ", " ") for name in header], *rows]
        )
    notes = _notes(chosen)
    if form == "latex":
        head = " & ".join(name.replace("@", "{@}") for name in header) + r" \\"
        body = "\n".join(
            " & ".join(cell.replace("_", r"\_") for cell in row) + r" \\" for row in rows
        )
        comments = "\n".join(f"% {note}" for note in notes)
        shape = "l" + "c" * len(columns)
        return f"{comments}\n\\begin{{tabular}}{{{shape}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    lines = [
        "| " + " | ".join(row) + " |" for row in [header, ["---", *["---:"] * len(columns)], *rows]
    ]
    return "\n".join(["\n".join(lines), "", *notes])


def render_costs(results: Sequence[Result]) -> str:
    """Markdown: mean seconds of training and of encoding a cell of each method, and the largest
    memory, on cached features.
    """
    lines = ["| method | training, s | encoding, s |", "| --- | ---: | ---: |"]
    cells = [result for result in results if result.bits]
    for method in dict.fromkeys(result.method for result in cells):
        own = [result for result in cells if result.method == method]
        training, encoding = (
            statistics.fmean(getattr(r, name) for r in own)
            for name in ("seconds", "encode_seconds")
        )
        lines.append(f"| {method} | {training:.1f} | {encoding:.2f} |")
    peak = max((result.peak_gb for result in results), default=0.0)
    note = "Means over code lengths and seeds, on cached backbone features; a teacher counts in the cell that fitted it."
    return "\n".join([*lines, "", note + f" Peak memory of the process: {peak:.2f} GB."])


def _order(column: tuple[str, int]) -> tuple[int, int]:
    k, bits = column
    return (0 if k == "all" else int(k)), bits


def _cell(values: Sequence[float], bold: bool, form: Format) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else None
    if form == "csv":
        return f"{mean:.4f}" + (f" +- {spread:.4f}" if spread is not None else "")
    sign = r"$\pm$" if form == "latex" else "±"
    text = f"{mean:.3f}" + (f" {sign} {spread:.3f}" if spread is not None else "")
    if not bold:
        return text
    return rf"\textbf{{{text}}}" if form == "latex" else f"**{text}**"


def _clear_winner(values: dict[str, list[float]]) -> str | None:
    """The method whose mean is ahead of all others by more than both spreads together, if there is
    one.
    """
    known = {method: numbers for method, numbers in values.items() if numbers}
    ranked = sorted(known, key=lambda method: -statistics.fmean(known[method]))
    if len(ranked) < 2:
        return None
    spreads = [statistics.stdev(known[m]) if len(known[m]) > 1 else 0.0 for m in ranked[:2]]
    lead = statistics.fmean(known[ranked[0]]) - statistics.fmean(known[ranked[1]])
    return ranked[0] if lead > sum(spreads) else None


def _notes(results: Sequence[Result]) -> list[str]:
    first = results[0]
    seeds = sorted({result.seed for result in results if result.bits})
    return [
        f"{first.dataset}, protocol {first.protocol}, split SHA-256 {first.split_sha256[:12]}, "
        f"backbone {first.backbone}.",
        f'Expected mAP over orders of tied items, denominator "{first.denominator}", queries without a hit count 0.',
        f"Mean and standard deviation over seeds {', '.join(map(str, seeds))}; bold where ahead by "
        "more than the spreads.",
    ]
