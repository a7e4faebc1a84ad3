"""The table made of results: mean and spread over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from udmsh_pl.errors import InputError
from udmsh_pl.reports.results import Result, learns_from_labels

Format = Literal["markdown", "csv", "latex"]
WIDEST = 8  # columns of a table in a terminal and in table.md
Column = tuple[str, bool, int, int]  # measure, whole database, k, bits: in the order of a table


@dataclass(frozen=True)
class Pivot:
    """Rows of one split as a table: a line a method, a column a measure and code length.

    Args:
        rows: what the table is made of
        methods: in the order of the rows
        columns: measures and code lengths, mAP first
        values: (method, column) -> one value a seed
    """

    rows: Sequence[Result]
    methods: list[str]
    columns: list[Column]
    values: dict[tuple[str, Column], list[float]]

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        ks: Sequence[str] | None = None,
        bits: Sequence[int] | None = None,
    ) -> "Pivot":
        """Arrange results; a real-valued ranking stands in the columns of all code lengths.

        Raises:
            InputError: no row is left, or the rows are of several splits.
        """
        chosen = [
            r
            for r in results
            if r.ties != "id"
            and (ks is None or r.k in ks)
            and (bits is None or r.bits in (0, *bits))
        ]
        if not chosen:
            raise InputError("there are no such rows in the results; run `udmsh reproduce` first")
        splits = sorted({result.split_sha256[:12] for result in chosen})
        if len(splits) > 1:
            raise InputError(
                f"the results are of {len(splits)} splits ({', '.join(splits)}), which no table "
                "compares; run `udmsh reproduce` again, or give another --out"
            )
        methods = list(dict.fromkeys(result.method for result in chosen))
        methods.sort(key=learns_from_labels)  # those below all others
        columns = sorted({_column(r) for r in chosen if r.bits} or {_column(r) for r in chosen})
        values: dict[tuple[str, Column], list[float]] = {}
        for column in columns:
            for r in chosen:
                if _column(r)[:3] == column[:3] and r.bits in (column[3], 0):
                    values.setdefault((r.method, column), []).append(r.value)
        return cls(chosen, methods, columns, values)

    def clear_winner(self, column: Column) -> str | None:
        """The method whose mean leads by more than both spreads together, if there is one.

        One that learns from labels is neither the winner nor in its way.
        """
        compared = [method for method in self.methods if not learns_from_labels(method)]
        return _clear_winner({m: self.values.get((m, column), []) for m in compared})

    def interval(self, method: str, column: Column) -> tuple[float, float]:
        """Mean of the worst and of the best case over orders of tied items."""
        own = [r for r in self.rows if r.method == method and _column(r)[:3] == column[:3]]
        own = [r for r in own if r.bits in (column[3], 0)]
        return statistics.fmean(r.lower for r in own), statistics.fmean(r.upper for r in own)

    def notes(self) -> list[str]:
        """The protocol in three lines."""
        return _notes(self.rows)


def render_table(
    results: Sequence[Result],
    form: Format = "markdown",
    ks: Sequence[str] | None = None,
    bits: Sequence[int] | None = None,
) -> str:
    """Measures per method and bits as mean ± standard deviation over seeds, the protocol below.

    The best mean of a column is bold only when it is ahead of every other by more than the two
    spreads together.

    Args:
        results: rows of one split
        form: ``markdown``, ``csv`` or ``latex``
        ks: only these cut-offs
        bits: only these code lengths

    Raises:
        InputError: no row is left, or the rows are of several splits, which no table compares.
    """
    pivot = Pivot.of(results, ks, bits)
    best = {column: pivot.clear_winner(column) for column in pivot.columns}
    header = ["method", *(column_title(column) for column in pivot.columns)]
    rows = [
        [
            method,
            *(
                _cell(pivot.values.get((method, c), []), method == best[c], form)
                for c in pivot.columns
            ),
        ]
        for method in pivot.methods
    ]
    notes = pivot.notes()
    return {"csv": _csv, "latex": _latex, "markdown": _markdown}[form](header, rows, notes)


def render_tables(
    results: Sequence[Result],
    form: Format = "markdown",
    ks: Sequence[str] | None = None,
    bits: Sequence[int] | None = None,
) -> str:
    """:func:`render_table`, in markdown one a code length where it would be too wide to read."""
    pivot = Pivot.of(results, ks, bits)
    lengths = sorted({column[3] for column in pivot.columns})
    if form != "markdown" or len(pivot.columns) <= WIDEST or len(lengths) < 2:
        return render_table(results, form, ks, bits)
    tables = [render_table(results, form, ks, [length]) for length in lengths]
    notes = "\n".join(pivot.notes())
    return "\n\n".join([*(table.split("\n\n")[0] for table in tables), notes])


def _csv(header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    return "\n".join(",".join(row) for row in [[name.replace(", ", " ") for name in header], *rows])


def _latex(header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    lines = [f"% {note}" for note in notes]
    lines += [rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(name.replace("@", "{@}") for name in header) + r" \\", r"\midrule"]
    lines += [" & ".join(cell.replace("_", r"\_") for cell in row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _markdown(header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        [*("| " + " | ".join(row) + " |" for row in [header, rule, *rows]), "", *notes]
    )


def _column(result: Result) -> Column:
    whole = result.k == "all"
    name = "" if result.metric == "map" else result.metric  # mAP comes first
    return name, whole, 0 if whole else int(result.k), result.bits


def column_title(column: Column) -> str:
    """What stands over a column."""
    name, whole, k, bits = column
    return f"{name.upper() or 'mAP'}@{'ALL' if whole else k}, {bits} bits"


def render_costs(results: Sequence[Result]) -> str:
    """Markdown: mean seconds of training and of encoding a cell of each method, and the largest
    memory, on cached features.
    """
    lines = ["| method | training, s | encoding, s |", "| --- | ---: | ---: |"]
    for method, (training, encoding) in costs(results).items():
        lines.append(f"| {method} | {training:.1f} | {encoding:.2f} |")
    peak = max((result.peak_gb for result in results), default=0.0)
    note = f"{COSTS_NOTE} Peak memory of the process: {peak:.2f} GB."
    return "\n".join([*lines, "", note])


COSTS_NOTE = (
    "Means over code lengths and seeds, on cached backbone features; a teacher counts in the "
    "cell that fitted it."
)


def costs(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """Mean seconds of training and of encoding a cell of each method."""
    cells = [result for result in results if result.bits]
    found = {}
    for method in dict.fromkeys(result.method for result in cells):
        own = [result for result in cells if result.method == method]
        training = statistics.fmean(result.seconds for result in own)
        found[method] = training, statistics.fmean(result.encode_seconds for result in own)
    return found


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


def _backbones(results: Sequence[Result]) -> str:
    """The first row's backbone, and which methods have another: one that was fine-tuned, say."""
    first = results[0].backbone
    others: dict[str, list[str]] = {}
    for result in results:
        if result.backbone != first and result.method not in others.get(result.backbone, []):
            others.setdefault(result.backbone, []).append(result.method)
    named = [f"{backbone} in {', '.join(methods)}" for backbone, methods in others.items()]
    return "; ".join([first, *named])


def _notes(results: Sequence[Result]) -> list[str]:
    first = results[0]
    seeds = sorted({result.seed for result in results if result.bits})
    supervised = [
        "Rows that end in (labels) learn from labels of the train images: an upper bound, with "
        "which no other row is compared."
    ]
    return [
        f"{first.dataset}, protocol {first.protocol}, split SHA-256 {first.split_sha256[:12]}, "
        f"backbone {_backbones(results)}.",
        f'Expected mAP over orders of tied items, denominator "{first.denominator}", queries '
        "without a hit count 0.",
        f"Mean and standard deviation over seeds {', '.join(map(str, seeds))}; bold where ahead by "
        "more than the spreads.",
        *(supervised if any(learns_from_labels(result.method) for result in results) else []),
    ]
