"""Tables made of results: mean and spread over seeds, costs, and how sure a lead is."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse, product
from typing import Literal

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Grid, Result, learns_from_labels, mean_and_spread
from udmsh_pl.retrieval.bootstrap import PairedDifference, paired_difference, paired_differences
from udmsh_pl.retrieval.ties import Float64s

Format = Literal["markdown", "csv", "latex"]
ENDINGS = {
    "(asymmetric)": "compare a real-valued query with codes.",
    "(two stages)": "order the nearest codes by a feature of up to 512 bytes more.",
    "(labels)": "learn from labels of the train images: an upper bound, with which no other row is "
    "compared.",
}
WIDEST = 8  # columns of a table in a terminal and in table.md
Rows = list[tuple[str, ...]]
Column = tuple[str, bool, int, int]  # measure, whole database, k, bits: in the order of a table


@dataclass(frozen=True)
class Pivot:
    """Rows of one split as a table: a line a method, a column a measure and code length."""

    rows: Sequence[Result]  # what the table is made of
    methods: list[str]  # in the order of the lines
    columns: list[Column]  # mAP first
    values: dict[tuple[str, Column], list[float]]  # (method, column) -> one value a seed

    @classmethod
    def of(
        cls, results: Sequence[Result], ks: Sequence[str] | None = None,
        bits: Sequence[int] | None = None,
    ) -> "Pivot":  # fmt: skip
        """Arrange results; a real-valued ranking stands in the columns of all code lengths.

        Raises ``InputError``: no row is left, or the rows are of several splits.
        """
        shown = [r for r in results if r.ties != "id" and r.k in (ks or [r.k])]
        chosen = [r for r in shown if r.bits in (0, *(bits or [r.bits]))]
        if not chosen:
            raise InputError("no row has this --k and --bits; change them or `udmsh reproduce`")
        splits = sorted({result.split_sha256[:12] for result in chosen})
        if len(splits) > 1:
            found = f"{len(splits)} splits ({', '.join(splits)}), which no table compares"
            mend = "run `udmsh reproduce` again, or give another --out"
            raise InputError(f"the results are of {found}; {mend}")
        methods = dict.fromkeys(result.method for result in chosen)
        columns = sorted({_column(r) for r in chosen if r.bits} or {_column(r) for r in chosen})
        values: dict[tuple[str, Column], list[float]] = {}
        for column in columns:
            for r in chosen:
                if _column(r)[:3] == column[:3] and r.bits in (column[3], 0):
                    values.setdefault((r.method, column), []).append(r.value)
        return cls(chosen, sorted(methods, key=learns_from_labels), columns, values)

    def clear_winner(self, column: Column) -> str | None:
        """The method whose mean leads all others by more than both spreads together, or None.

        Methods that learn from labels do not take part.
        """
        found = {
            method: mean_and_spread(self.values[method, column])
            for method in self.methods
            if not learns_from_labels(method) and (method, column) in self.values
        }
        if len(found) < 2:
            return None
        first = max(found, key=lambda method: found[method][0])
        best, own = found.pop(first)
        return first if all(best - m > (own or 0) + (s or 0) for m, s in found.values()) else None

    def interval(self, method: str, column: Column) -> tuple[float, float]:
        """Mean of the worst and of the best case over orders of tied items."""
        rows = [r for r in self.rows if r.method == method and r.bits in (column[3], 0)]
        own = [r for r in rows if _column(r)[:3] == column[:3]]
        return statistics.fmean(r.lower for r in own), statistics.fmean(r.upper for r in own)

    def notes(self) -> list[str]:
        """The protocol in three lines."""
        first = self.rows[0]
        seeds = sorted({result.seed for result in self.rows if result.bits})
        found = [
            f"{first.dataset}, protocol {first.protocol}, split SHA-256 "
            f"{first.split_sha256[:12]}, backbone {self._backbones()}.",
            f'Expected mAP over orders of tied items, denominator "{first.denominator}", queries '
            "without a hit count 0.",
            f"Mean and standard deviation over seeds {', '.join(map(str, seeds))}; bold where "
            "ahead by more than the spreads.",
        ]
        methods = {result.method for result in self.rows}
        found += [
            f"Rows that end in {ending} {meaning}"
            for ending, meaning in ENDINGS.items()
            if any(method.endswith(ending) for method in methods)
        ]
        return found

    def _backbones(self) -> str:
        """The first row's backbone, and which methods have another: one fine-tuned, say."""
        first = self.rows[0].backbone
        others: dict[str, dict[str, None]] = {}
        for result in self.rows:
            if result.backbone != first:
                others.setdefault(result.backbone, {})[result.method] = None
        named = [f"{backbone} in {', '.join(methods)}" for backbone, methods in others.items()]
        return "; ".join([first, *named])


def render_tables(
    results: Sequence[Result], form: Format = "markdown", ks: Sequence[str] | None = None,
    bits: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """Measures per method and bits as mean ± standard deviation over seeds, the protocol below.

    The best mean of a column is bold only when it is ahead of every other by more than the two
    spreads together. In markdown there is one table a code length where it would be too wide to
    read. ``ks`` and ``bits`` are the only cut-offs and code lengths; None for all. Raises as
    :meth:`Pivot.of`.
    """
    pivot = Pivot.of(results, ks, bits)
    if form == "csv":
        return _table(pivot, form)
    if form == "latex":
        return "\n".join([*(f"% {note}" for note in pivot.notes()), _table(pivot, form)])
    lengths = sorted({column[3] for column in pivot.columns})
    wide = len(pivot.columns) > WIDEST and len(lengths) > 1
    pivots = [Pivot.of(results, ks, [length]) for length in lengths] if wide else [pivot]
    tables = [_table(one, form) for one in pivots]
    return "\n\n".join([*tables, "\n".join(pivot.notes())])


def _table(pivot: Pivot, form: Format) -> str:
    best = {column: pivot.clear_winner(column) for column in pivot.columns}
    header = ["method", *map(column_title, pivot.columns)]

    def cell(method: str, column: Column) -> str:
        return _cell(pivot.values.get((method, column), []), method == best[column], form)

    rows = [[one, *(cell(one, column) for column in pivot.columns)] for one in pivot.methods]
    if form == "csv":
        return "\n".join([",".join(header).replace(", ", " "), *map(",".join, rows)])
    if form == "markdown":
        return markdown([header, ["---", *["---:"] * (len(header) - 1)], *rows])
    lines = [rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(header).replace("@", "{@}") + r" \\", r"\midrule"]
    lines += [" & ".join(row).replace("_", r"\_") + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Rows, the second of which is the rule, as a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _column(result: Result) -> Column:
    whole = result.k == "all"
    name = "" if result.metric == "map" else result.metric  # mAP comes first
    return name, whole, 0 if whole else int(result.k), result.bits


def column_title(column: Column) -> str:
    """What stands over a column."""
    name, whole, k, bits = column
    return f"{name.upper() or 'mAP'}@{'ALL' if whole else k}, {bits} bits"


def render_costs(results: Sequence[Result]) -> str:
    """Markdown of :func:`costs`, and the largest memory."""
    rows = [("method", "training, s", "encoding, s"), ("---", "---:", "---:")]
    for method, (training, encoding) in costs(results).items():
        rows.append((method, f"{training:.1f}", f"{encoding:.2f}"))
    peak = max((result.peak_gb for result in results), default=0.0)
    return f"{markdown(rows)}\n\n{COSTS_NOTE} Peak memory of the process: {peak:.2f} GB."


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
    mean, spread = mean_and_spread(values)
    digits, sign = {"csv": (4, "+-"), "latex": (3, r"$\pm$"), "markdown": (3, "±")}[form]
    text = f"{mean:.{digits}f}" + (f" {sign} {spread:.{digits}f}" if spread is not None else "")
    if not bold or form == "csv":
        return text
    return rf"\textbf{{{text}}}" if form == "latex" else f"**{text}**"


LEADS_HEADER = ("column", "best", "runner-up", "lead", "95 % interval", "p")
LEADS_NOTE = (
    "Paired bootstrap over queries and seeds (2,000 resamples) of each query's expected AP."
)
MATRIX_NOTE = (
    "How far the method of a row leads that of a column in expected mAP, best method first. Bold: "
    "the 95 % interval of a paired bootstrap over queries and seeds excludes 0."
)


def leads(run: RunDirectory, plan: Grid) -> Rows:
    """Rows of a paired bootstrap over queries and seeds, per cut-off and code length, under
    ``LEADS_HEADER``: the best method against the second.

    A query's value is its expected AP@k. Methods with an unfinished cell are left out; nothing is
    compared when fewer than two are there.
    """
    rows: Rows = []
    for column, scores in _compared(run, plan, plan.bits):
        best, second = list(scores)[:2]
        lead = paired_difference(scores[best], scores[second])
        interval = f"{lead.lower:+.3f} to {lead.upper:+.3f}"
        numbers = f"{lead.mean:+.3f}", interval, f"{lead.p_value:.4f}"
        rows.append((column, best, second, *numbers))
    return rows


def by_mean(scores: Mapping[str, Float64s]) -> dict[str, Float64s]:
    """Scores of methods, the highest mean first."""
    return dict(sorted(scores.items(), key=lambda one: -float(np.mean(one[1]))))


def lead_matrices(run: RunDirectory, plan: Grid, bits: int) -> list[tuple[str, Rows]]:
    """A title and the lead of each method over each other one, for each cut-off at one length.

    The first row names the columns. Methods are left out as in :func:`leads`.
    """
    return [
        (title, matrix_rows(list(scores), paired_differences(scores)))
        for title, scores in _compared(run, plan, [bits])
    ]


def matrix_rows(names: Sequence[str], leads: Mapping[tuple[str, str], PairedDifference]) -> Rows:
    """A matrix of leads as texts, its header first; ``leads`` hold pairs in the order of ``names``.

    A lead whose interval excludes 0 is bold.
    """

    def lead(first: str, second: str) -> str:
        if first == second:
            return ""
        swapped = (first, second) not in leads
        one = leads[(second, first) if swapped else (first, second)]
        text = f"{-one.mean if swapped else one.mean:+.3f}".replace("0.", ".", 1)
        return f"**{text}**" if one.lower > 0 or one.upper < 0 else text

    rows = [(first, *(lead(first, second) for second in names)) for first in names]
    return [("", *names), *rows]


def render_leads(rows: Rows) -> list[str]:
    """Markdown of :func:`leads`, or nothing."""
    if not rows:
        return []
    rule = ("---", "---", "---", "---:", "---:", "---:")
    return [f"{markdown([LEADS_HEADER, rule, *rows])}\n\n{LEADS_NOTE}"]


def _compared(
    run: RunDirectory, plan: Grid, lengths: Sequence[int]
) -> Iterator[tuple[str, dict[str, Float64s]]]:
    """A column's title and each query's AP with each seed, [S, Q], by method, the best first."""
    values = {}
    for name, bits in product(filterfalse(learns_from_labels, plan.methods), lengths):
        found = [one.average_precision for one in run.scores_of(name, bits, plan.seeds)]
        if len(found) == len(plan.seeds):
            values[name, bits] = found
    for k, bits in product(plan.ks, lengths):
        own = {name: aps for (name, length), aps in values.items() if length == bits}
        scores = {name: np.stack([one[k] for one in aps]) for name, aps in own.items()}
        if len(scores) > 1:
            yield column_title(("", k is None, k or 0, bits)), by_mean(scores)
