"""Line charts of a run; :mod:`udmsh_pl.reports.drawing` draws them for print and for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import Column, Pivot, column_title
from udmsh_pl.reports.table_rows import Grid, Result, mean_and_spread
from udmsh_pl.retrieval.ties import Float64s

MARKERS_A_LINE = 12


@dataclass(frozen=True)
class Point:
    """A point of a line, in units of the data; ``marked`` has the method's marker.

    ``note`` is the text under the pointer; its error bar reaches ``spread`` up and down.
    """

    x: float
    y: float
    note: str
    spread: float = 0.0
    marked: bool = True


@dataclass(frozen=True)
class Line:
    """A method's line, whose style is the method's, with points from left to right.

    ``level`` is a dotted line over the whole width, at the first point's height.
    """

    method: str
    points: Sequence[Point]
    level: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over common axes, one a method; the left axis begins at 0.

    ``powers`` are ticks of a logarithmic lower axis, such as code lengths; without, it is 0 to 1.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    powers: Sequence[int] = ()


def precision_recall_chart(
    curves: Mapping[str, tuple[Float64s, Float64s]], title: str = ""
) -> Chart:
    """Mean precision against mean recall over Hamming radii 0..bits.

    ``curves`` are by method, of :meth:`RetrievalReport.precision_recall_curve`.
    """
    lines = [Line(method, _curve(method, *curve)) for method, curve in curves.items()]
    return Chart(title, "recall", "precision", lines)


def precision_recall_charts(run: RunDirectory, plan: Grid) -> dict[int, Chart]:
    """:func:`precision_recall_chart` of each code length, means over seeds, from the scores that
    the cells keep; methods and code lengths without any are left out.
    """
    charts = {}
    for bits in sorted(plan.bits):
        curves = {}
        for method in plan.methods:
            if found := run.scores_of(method, bits, plan.seeds):
                precision = np.mean([scores.precision for scores in found], axis=0)
                curves[method] = precision, np.mean([scores.recall for scores in found], axis=0)
        if curves:
            title = f"Precision against recall, {bits} bits"
            charts[bits] = precision_recall_chart(curves, title)
    return charts


def measure_charts(results: Sequence[Result]) -> dict[str, Chart]:
    """A chart of each measure against code length: means over seeds, bars of one standard
    deviation, a real-valued ranking as a level line. The keys are ``mAP@ALL``, ``mAP@1000``, ...
    """
    pivot = Pivot.of(results)
    bits = sorted({column[3] for column in pivot.columns})
    levels = {result.method for result in pivot.rows if not result.bits}
    charts = {}
    for measure in dict.fromkeys(column[:3] for column in pivot.columns):
        name = column_title((*measure, 0)).partition(",")[0]
        lines = []
        for method in pivot.methods:
            columns = [(*measure, length) for length in bits]
            columns = [column for column in columns if (method, column) in pivot.values]
            points = [_mean(pivot, method, column, method not in levels) for column in columns]
            if points:
                lines.append(Line(method, points, method in levels))
        title = f"{name} against code length"
        charts[name] = Chart(title, "code length in bits", name, lines, bits)
    return charts


def _curve(method: str, precision: Float64s, recall: Float64s) -> list[Point]:
    # radii that find next to nothing have a precision of 0 by definition: a spike in a drawing
    radii = np.flatnonzero(recall > 1e-3)
    every = max(1, len(radii) // MARKERS_A_LINE)
    points = []
    for number, radius in enumerate(radii.tolist()):
        x, y = float(recall[radius]), float(precision[radius])
        note = f"{method}\nradius {radius}: precision {y:.3f}, recall {x:.3f}"
        points.append(Point(x, y, note, marked=not number % every))
    return points


def _mean(pivot: Pivot, method: str, column: Column, marked: bool) -> Point:
    mean, spread = mean_and_spread(pivot.values[method, column])
    low, high = pivot.interval(method, column)
    note = f"{method}\n{column_title(column)}: {mean:.3f}"
    note += f" ± {spread:.3f}" if spread is not None else ""
    note += f"\nties: {low:.3f} to {high:.3f}" if high > low else ""
    return Point(column[3], mean, note, spread or 0.0, marked)
