"""Charts drawn for print by Matplotlib and for the page as SVG, each method in one style.

Every method has a colour, a marker and a line style of its own, the same in every figure of every
run; without colour, in a grey print, line and marker still differ.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from udmsh_pl.reports.curves import Chart, Line
from udmsh_pl.safe.files import atomic_path

MARKERS = "osD^vP*X<>"
STYLES = ("-", "--", "-.", ":")
DASHES = {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}  # in SVG's words
# Okabe & Ito's, safe for the colour-blind, then others; none so dark that a dark page hides it
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#888888", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c45",
    "#9b2545", "#999933", "#6a4cbf", "#44aa99",
)  # fmt: skip
# The first twelve have a colour of their own; in a grey print line and marker differ for all.
KNOWN = (
    "udmsh-plus", "udmsh", "itq", "lsh", "pcah", "sdc-views", "bihalf", "mls3rduh", "cibhash", "sh",
    "sph", "sgh", "ssdh", "greedyhash", "sdc", "cimon", "nsh", "wch", "udth",
    "cosine (real-valued)",
)  # fmt: skip
POLYGONS = {"s": (4, 45), "D": (4, 0), "^": (3, -90), "v": (3, 90), "<": (3, 180), ">": (3, 0)}
STROKES = {"P": (2, 0), "X": (2, 45), "*": (3, 30)}  # that cross, and the angle of the first


def style_of(method: str) -> dict[str, Any]:
    """A method's style in Matplotlib's words; of one that is not among ours, by its name alone."""
    number = len(KNOWN) + zlib.crc32(method.encode()) % 280
    number = KNOWN.index(method) if method in KNOWN else number
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(MARKERS) % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.0,
        "linewidth": 1.4,
    }


def figure_of(chart: Chart, title: str | None = None) -> Figure:
    """A chart by Matplotlib, its title or another, the legend below, where it hides no curve."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=chart.xlabel, ylabel=chart.ylabel)
    axes.set_title(chart.title if title is None else title, fontsize=10)
    axes.grid(alpha=0.3)
    for line in chart.lines:
        xs, ys = ([getattr(point, name) for point in line.points] for name in "xy")
        if line.level:
            axes.axhline(ys[0], color="0.4", linestyle=":", label=line.method)
            continue
        style = style_of(line.method)
        if chart.powers:
            bars = [point.spread for point in line.points]
            axes.errorbar(xs, ys, yerr=bars, label=line.method, capsize=3, **style)
        else:
            marked = [number for number, point in enumerate(line.points) if point.marked]
            axes.plot(xs, ys, label=line.method, markevery=marked, **style)
    if chart.powers:
        axes.set_xscale("log", base=2)
        axes.set_xticks(chart.powers, [str(power) for power in chart.powers])
        axes.minorticks_off()
    else:
        axes.set(xlim=(0, 1), ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=150)


def save_print(figure: Figure, target: Path) -> None:
    """Write ``target`` as PNG and, beside it, as vector PDF with text that stays text."""
    for suffix in (".png", ".pdf"):
        # type 42: journals refuse the type 3 fonts that Matplotlib embeds otherwise
        with atomic_path(target.with_suffix(suffix)) as partial, rc_context({"pdf.fonttype": 42}):
            figure.savefig(partial, dpi=300)


class SvgAxes:
    """Places of a chart's axes and points, in pixels of the SVG that the page's template draws."""

    width, height = 440, 320
    left, right, top, bottom = 46, 430, 10, 282  # of the axes

    def __init__(self, chart: Chart) -> None:
        points = [point for line in chart.lines for point in line.points]
        top = max((point.y + point.spread for point in points), default=1.0)
        # the distance of at most seven ticks: 1, 2 or 5 times a power of ten
        power = 10.0 ** math.floor(math.log10(max(top, 1e-6)))
        step = next(power * part for part in (0.1, 0.2, 0.5, 1, 2) if top / (power * part) <= 7)
        ticks = math.ceil(top / step - 1e-9) or 1
        self._top = ticks * step
        self._powers = chart.powers
        self._ends = (0.0, 1.0)
        if chart.powers:
            self._ends = math.log2(chart.powers[0]) - 0.3, math.log2(chart.powers[-1]) + 0.3
        xs: Sequence[float] = chart.powers or [tick / 5 for tick in range(6)]
        self.x_ticks = [(self.x(x), f"{x:g}") for x in xs]
        self.y_ticks = [(self.y(tick * step), f"{tick * step:.4g}") for tick in range(ticks + 1)]

    def x(self, value: float) -> float:
        """Place of a value on the lower axis."""
        low, high = self._ends
        share = ((math.log2(value) if self._powers else value) - low) / (high - low)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        """Place of a value on the left axis."""
        return round(self.bottom - value / self._top * (self.bottom - self.top), 1)

    def path(self, line: Line) -> str:
        """The ``d`` of a line's path."""
        if line.level:
            return f"M{self.left} {self.y(line.points[0].y)}H{self.right}"
        return "M" + "L".join(f"{self.x(point.x)} {self.y(point.y)}" for point in line.points)


def marker_path(marker: str, x: float, y: float, size: float = 3.6) -> str:
    """The ``d`` of an SVG path for Matplotlib's name of a marker, around a place."""
    if marker in STROKES:
        count, first = STROKES[marker]
        angles = [math.radians(first + 180 / count * number) for number in range(count)]
        ends = [(size * math.cos(angle), size * math.sin(angle)) for angle in angles]
        return "".join(f"M{x - dx:.1f} {y - dy:.1f}L{x + dx:.1f} {y + dy:.1f}" for dx, dy in ends)
    if marker in POLYGONS:
        count, first = POLYGONS[marker]
        angles = [math.radians(first + 360 / count * number) for number in range(count)]
        far = size + 0.6
        corners = [f"{x + far * math.cos(a):.1f} {y + far * math.sin(a):.1f}" for a in angles]
        return f"M{'L'.join(corners)}Z"
    radius = size - 0.4
    arc = f"a{radius:.1f} {radius:.1f} 0 1 0"
    return f"M{x - radius:.1f} {y:.1f}{arc} {2 * radius:.1f} 0{arc} {-2 * radius:.1f} 0"
