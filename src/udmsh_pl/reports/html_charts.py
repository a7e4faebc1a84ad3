"""Curves of the page, from the scores that the cells keep: all code lengths, means over seeds."""

import statistics
from collections.abc import Sequence

import numpy as np

from udmsh_pl.reports.charts import Line, Point, chart, legend
from udmsh_pl.reports.results import Cell, Grid, Result
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import Column, Pivot, column_title

MARKERS_A_LINE = 12


def precision_recall(run: RunDirectory, plan: Grid) -> str:
    """A chart a code length: mean precision against mean recall over Hamming radii 0..bits."""
    figures: list[str] = []
    methods: dict[str, None] = {}
    for bits in sorted(plan.bits):
        lines = [
            line for name in plan.methods if (line := _curve(run, name, bits, plan.seeds)).points
        ]
        methods |= dict.fromkeys(line.method for line in lines)
        title = f"Precision against recall, {bits} bits"
        if lines:
            figures.append(_figure(chart(lines, "recall", "precision", title), title))
    if not figures:
        return ""
    note = "Over Hamming radii, mean over seeds; radii that find next to nothing are left out."
    return legend(methods) + _figures(figures, note)


def measures_against_bits(results: Sequence[Result]) -> str:
    """A chart a measure: mean over seeds against code length, bars of one standard deviation."""
    pivot = Pivot.of(results)
    bits = sorted({column[3] for column in pivot.columns})
    levels = {result.method for result in pivot.rows if not result.bits}
    figures = []
    for measure in dict.fromkeys(column[:3] for column in pivot.columns):
        name = column_title((*measure, 0)).partition(",")[0]
        lines = []
        for method in pivot.methods:
            columns = [(*measure, length) for length in bits]
            points = [
                _point(pivot, method, column, marked=method not in levels)
                for column in columns
                if pivot.values.get((method, column))
            ]
            if points:
                lines.append(Line(method, points, method in levels))
        title = f"{name} against code length"
        figures.append(_figure(chart(lines, "code length in bits", name, title, bits), title))
    note = "Means over seeds, bars of one standard deviation; dotted: the features themselves."
    return _figures(figures, note)


def _curve(run: RunDirectory, method: str, bits: int, seeds: Sequence[int]) -> Line:
    cells = [Cell(method, bits, seed) for seed in seeds]
    found = [run.scores(c) for c in cells if (run.folder(c) / "scores.npz").is_file()]
    if not found:
        return Line(method, [])
    precision = np.mean([scores.precision for scores in found], axis=0)
    recall = np.mean([scores.recall for scores in found], axis=0)
    radii = np.flatnonzero(recall > 1e-3)
    every = max(1, len(radii) // MARKERS_A_LINE)
    points = [
        Point(
            float(recall[radius]),
            float(precision[radius]),
            f"{method}\nradius {radius}: precision {precision[radius]:.3f}, "
            f"recall {recall[radius]:.3f}",
            marked=not number % every,
        )
        for number, radius in enumerate(radii.tolist())
    ]
    return Line(method, points)


def _point(pivot: Pivot, method: str, column: Column, marked: bool) -> Point:
    values = pivot.values[method, column]
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    told = f" ± {spread:.3f}" if len(values) > 1 else ""
    low, high = pivot.interval(method, column)
    ties = f"\nties: {low:.3f} to {high:.3f}" if high > low else ""
    text = f"{method}\n{column_title(column)}: {mean:.3f}{told}{ties}"
    least, most = (mean - spread, mean + spread) if spread else (None, None)
    return Point(column[3], mean, text, least, most, marked=marked)


def _figures(figures: Sequence[str], note: str) -> str:
    return f'<div class="charts">{"".join(figures)}</div><p class="note">{note}</p>'


def _figure(drawing: str, title: str) -> str:
    return f"<figure><h3>{title}</h3>{drawing}</figure>"
