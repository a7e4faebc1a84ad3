"""Line charts as inline SVG: drawn here, so that they show without a script, in any width.

Each point carries what it says in ``data-v``; ``report.js`` shows it under the pointer.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from udmsh_pl.reports.looks import look_of

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38  # of the axes
LEVEL = "#808080"  # of a dotted line
DASHES = {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
CORNERS = {"s": (4, 45), "D": (4, 0), "^": (3, -90), "v": (3, 90), "<": (3, 180), ">": (3, 0)}


@dataclass(frozen=True)
class Point:
    """A point of a line, in units of the data.

    Args:
        x: along the lower axis
        y: along the left axis
        tells: what is shown under the pointer
        low: lower end of its error bar
        high: upper end
        marked: whether it has the method's marker; others show under the pointer alone
    """

    x: float
    y: float
    tells: str
    low: float | None = None
    high: float | None = None
    marked: bool = True


@dataclass(frozen=True)
class Line:
    """A method's line.

    Args:
        method: chooses the look
        points: from left to right
        level: draw a dotted line over the whole width
    """

    method: str
    points: Sequence[Point]
    level: bool = False


def chart(
    lines: Sequence[Line], xlabel: str, ylabel: str, title: str, powers: Sequence[int] = ()
) -> str:
    """An SVG of lines over common axes, the lower one from 0 to 1.

    Args:
        lines: one a method
        xlabel: name of the lower axis
        ylabel: name of the left axis
        title: read to those who do not see it
        powers: ticks of a logarithmic lower axis instead, such as code lengths
    """
    tops = [point.y if point.high is None else point.high for li in lines for point in li.points]
    step = _step(max(tops, default=1.0))
    ticks = math.ceil(max(tops, default=1.0) / step - 1e-9) or 1
    top = ticks * step
    ends = (math.log2(powers[0]) - 0.3, math.log2(powers[-1]) + 0.3) if powers else (0.0, 1.0)

    def across(x: float) -> float:
        share = ((math.log2(x) if powers else x) - ends[0]) / (ends[1] - ends[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    xs: Sequence[float] = powers or [tick / 5 for tick in range(6)]
    parts = [_grid(across(x), HEIGHT - BOTTOM, across(x), TOP) for x in xs]
    parts += [_text(across(x), HEIGHT - BOTTOM + 14, f"{x:g}", "middle") for x in xs]
    for tick in range(ticks + 1):
        y = up(tick * step)
        parts.append(_grid(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, f"{tick * step:.4g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, xlabel, "middle"))
    parts.append(_text(-(TOP + HEIGHT - BOTTOM) / 2, 12, ylabel, "middle", "rotate(-90)"))
    for line in lines:
        look = look_of(line.method)
        places = [(across(point.x), up(point.y)) for point in line.points]
        marks = [
            _mark(point, place, look["marker"]) + _bar(place[0], point, up)
            for point, place in zip(line.points, places, strict=True)
        ]
        if line.level:
            places = [(LEFT, places[0][1]), (WIDTH - RIGHT, places[0][1])]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = DASHES[":" if line.level else look["linestyle"]]
        colour = LEVEL if line.level else look["color"]
        parts.append(
            f'<g class="line" data-m="{escape(line.method)}" stroke="{colour}" '
            f'fill="{colour}"><path d="{path}" fill="none" stroke-dasharray="{dashes}"/>'
            f"{''.join(marks)}</g>"
        )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def legend(methods: Iterable[str]) -> str:
    """Buttons with the look of each method; ``report.js`` hides and shows its lines."""
    buttons = []
    for method in methods:
        look = look_of(method)
        buttons.append(
            f'<button type="button" class="key" data-m="{escape(method)}" aria-pressed="true">'
            f'<svg viewBox="0 0 34 12" width="34" height="12" aria-hidden="true" '
            f'stroke="{look["color"]}" fill="{look["color"]}">'
            f'<path d="M1 6H33" fill="none" stroke-dasharray="{DASHES[look["linestyle"]]}"/>'
            f"{shape(look['marker'], 17, 6)}</svg>{escape(method)}</button>"
        )
    return f'<div class="legend">{"".join(buttons)}</div>'


def shape(marker: str, x: float, y: float, size: float = 3.6) -> str:
    """An SVG shape for Matplotlib's name of a marker, around a place."""
    if marker in "PX*":  # strokes that cross
        count, turn = {"P": (2, 0.0), "X": (2, 45.0), "*": (3, 30.0)}[marker]
        lines = []
        for number in range(count):
            angle = math.radians(turn + 180 / count * number)
            dx, dy = size * math.cos(angle), size * math.sin(angle)
            lines.append(f"M{x - dx:.1f} {y - dy:.1f}L{x + dx:.1f} {y + dy:.1f}")
        return f'<path d="{"".join(lines)}" stroke-width="2.4"/>'
    if marker not in CORNERS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size - 0.4}"/>'
    count, turn = CORNERS[marker]
    angles = (math.radians(turn + 360 / count * number) for number in range(count))
    corners = " ".join(
        f"{x + (size + 0.6) * math.cos(a):.1f},{y + (size + 0.6) * math.sin(a):.1f}" for a in angles
    )
    return f'<polygon points="{corners}"/>'


def _step(top: float) -> float:
    """The distance of at most seven ticks up to ``top``: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(top, 1e-6)))
    return next(power * part for part in (0.1, 0.2, 0.5, 1, 2) if top / (power * part) <= 7)


def _mark(point: Point, place: tuple[float, float], marker: str) -> str:
    x, y = place
    kind = "point" if point.marked else "point quiet"
    data = f'data-x="{x:.1f}" data-y="{y:.1f}" data-v="{escape(point.tells)}"'
    drawn = shape(marker, x, y) if point.marked else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<g class="{kind}" {data}>{drawn}</g>'


def _bar(x: float, point: Point, up: Callable[[float], float]) -> str:
    if point.low is None or point.high is None:
        return ""
    return f'<path d="M{x:.1f} {up(point.low):.1f}V{up(point.high):.1f}"/>'


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="grid" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, transform: str = "") -> str:
    turned = f' transform="{transform}"' if transform else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'
