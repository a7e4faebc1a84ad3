"""``report.html``: a run as one page that needs no network, made of its directory's files."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from udmsh_pl.reports import significance
from udmsh_pl.reports.citation import citations
from udmsh_pl.reports.curves import Chart
from udmsh_pl.reports.drawing import DASHES, SvgAxes, marker_path, style_of
from udmsh_pl.reports.results import COLUMNS, Cell, Result, mean_and_spread
from udmsh_pl.reports.table import COSTS_NOTE, Column, Pivot, column_title, costs

PAGE = Path(__file__).parent / "page"
PICTURES = (
    ("retrieved.png", "Found", "Queries, evenly chosen, and their nearest images."),
    ("misses.png", "Missed", "The queries with the lowest average precision: what goes wrong."),
    ("structure.png", "Structure", "Distances of train pairs and what was fitted to them."),
)


@dataclass(frozen=True)
class Field:
    """A field of a table of the page, which a click on a header sorts.

    It is sorted by ``value`` where its text is no number; ``spread`` is shown small behind the
    text, ``title`` while the pointer rests on it; ``kind`` is a class of the style sheet.
    """

    text: str
    value: float | None = None
    spread: str = ""
    kind: str = ""
    title: str = ""


def page(
    folder: Path,
    results: Sequence[Result],
    leads: Sequence[tuple[str, ...]],
    curves: Sequence[Chart],
    measures: Sequence[Chart],
    missing: Sequence[Cell] = (),
) -> str:
    """The page's text; ``folder`` is the run's, ``leads`` are of :mod:`significance`."""
    first, config = results[0], folder / "config.yaml"
    style, script = (
        (PAGE / name).read_text(encoding="utf-8").strip() for name in ("report.css", "report.js")
    )
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["digest"] = _digest
    drawing = {"axes_of": SvgAxes, "dashes": DASHES, "shape": marker_path, "style_of": style_of}
    environment.globals |= drawing
    return environment.get_template("report.html.j2").render(
        title=f"{first.dataset}, protocol {first.protocol}",
        subtitle=f"udmsh-pl {first.version}, {first.backbone}, split {first.split_sha256}",
        missing=missing,
        results=_results(Pivot.of(results)),
        leads={
            "header": significance.HEADER,
            "rows": [
                [*(Field(text, kind="text") for text in row[:3]), *map(Field, row[3:])]
                for row in leads
            ],
            "note": significance.NOTE,
        },
        curves=curves,
        methods=dict.fromkeys(line.method for chart in curves for line in chart.lines),
        measures=measures,
        pictures=[
            (title, text, base64.b64encode((folder / name).read_bytes()).decode())
            for name, title, text in PICTURES
            if (folder / name).is_file()
        ],
        costs=_costs(results),
        values={
            "header": COLUMNS,
            "rows": [
                [Field(f"{one:.6g}" if isinstance(one, float) else str(one)) for one in row]
                for row in (asdict(result).values() for result in results)
            ],
        },
        environment=_environment(folder),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        citations=citations(),
        style=style,
        script=script,
    )


def _results(pivot: Pivot) -> dict[str, Any]:
    """Methods against measures and code lengths: mean and spread, the seeds' values when asked."""
    best = {column: pivot.clear_winner(column) for column in pivot.columns}

    def field(method: str, column: Column) -> Field:
        values = pivot.values.get((method, column), [])
        if not values:
            return Field("")
        mean, spread = mean_and_spread(values)
        low, high = pivot.interval(method, column)
        seeds = ", ".join(f"{value:.4f}" for value in values)
        return Field(
            f"{mean:.3f}",
            round(mean, 6),
            f"± {spread:.3f}" if spread is not None else "",
            "best" if method == best[column] else "",
            f"seeds: {seeds}; order of ties alone: {low:.4f} to {high:.4f}",
        )

    return {
        "header": ["method", *map(column_title, pivot.columns)],
        "rows": [
            [Field(method), *(field(method, column) for column in pivot.columns)]
            for method in pivot.methods
        ],
        "notes": pivot.notes(),
    }


def _costs(results: Sequence[Result]) -> dict[str, Any]:
    peaks: dict[str, float] = {}
    for result in results:
        peaks[result.method] = max(peaks.get(result.method, 0.0), result.peak_gb)
    rows = [
        [Field(one) for one in (method, f"{train:.1f}", f"{encode:.2f}", f"{peaks[method]:.2f}")]
        for method, (train, encode) in costs(results).items()
    ]
    header = ("method", "training, s", "encoding, s", "peak memory so far, GB")
    return {"header": header, "rows": rows, "note": COSTS_NOTE}


def _environment(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found.pop("versions", {})) | found if isinstance(found, dict) else {}


def _digest(text: str) -> str:
    """The hash by which the page's policy allows just this style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
