"""Table, pictures and page of a finished run directory, read from its cells.

``report.html`` is one page that needs no network.
"""

import base64
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from udmsh_pl.images.image_list import Splits
from udmsh_pl.reports import drawing, published, table
from udmsh_pl.reports.citation import citations
from udmsh_pl.reports.curves import Chart, measure_charts, precision_recall_charts
from udmsh_pl.reports.gallery import gallery_figure, gallery_rows, missed_rows
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import COLUMNS, Cell, Grid, Result, mean_and_spread
from udmsh_pl.safe.files import atomic_path, read_object, write_text
from udmsh_pl.safe.profile import FILE as PROFILE_FILE

PICTURES = ("pr_curve.png", "map_bits.png", "structure.png", "retrieved.png", "misses.png")
PAGE = Path(__file__).parent / "page"
ON_PAGE = (
    ("retrieved.png", "Found", "Queries, evenly chosen, and their nearest images."),
    ("misses.png", "Missed", "The queries with the lowest average precision: what goes wrong."),
    ("structure.png", "Structure", "Distances of train pairs and what was fitted to them."),
)


def write_report(
    run: RunDirectory, results: Sequence[Result], splits: Splits, plan: Grid,
    missing: Sequence[Cell] = (),
) -> str:  # fmt: skip
    """Write ``table.md``, :data:`PICTURES` and ``report.html``; gives the table's text.

    ``pr_curve.png``, galleries and structure show the middle code length; the latter two the first
    seed, galleries the last method. ``missing`` are cells that the plan has and the results do not;
    they are named under the table.
    """
    leads = table.leads(run, plan)
    parts = [table.render_tables(results), *table.render_leads(leads), table.render_costs(results)]
    if beside := published.markdown_table(published.published_rows(results)):
        parts.insert(-1, f"{beside}\n\n{published.NOTE}")
    if missing:
        parts.append(f"**Missing: {', '.join(cell.name for cell in missing)}.**")
    text = "\n\n".join(parts) + "\n"
    write_text(run.path / "table.md", text)
    bits, seed = sorted(plan.bits)[len(plan.bits) // 2], plan.seeds[0]
    cells = [Cell(name, bits, seed) for name in plan.methods]
    cells = [cell for cell in cells if (run.folder(cell) / "codes.npz").is_file()]
    pictures = [run.folder(cell) / "logs" / "structure.png" for cell in cells]
    for picture in [path for path in pictures if path.is_file()][:1]:
        with atomic_path(run.path / "structure.png") as partial:
            shutil.copyfile(picture, partial)
    curves, measures = precision_recall_charts(run, plan), measure_charts(results)
    dataset = splits.protocol.dataset
    if bits in curves:
        title = f"{dataset}, {bits} bits, mean over seeds"
        drawing.save_print(drawing.figure_of(curves[bits], title), run.path / "pr_curve.png")
    if "mAP@ALL" in measures:
        figure = drawing.figure_of(measures["mAP@ALL"], dataset)
        drawing.save_print(figure, run.path / "map_bits.png")
    if cells:
        _write_galleries(run, splits, cells[-1])
    charts = list(curves.values()), list(measures.values())
    matrices = table.lead_matrices(run, plan, bits)
    write_text(run.path / "report.html", page(run.path, results, leads, matrices, *charts, missing))
    return text


def _write_galleries(run: RunDirectory, splits: Splits, cell: Cell) -> None:
    codes, images = run.codes(cell), splits.by_name()
    query, database = images["query"], images["database"]
    pair = codes["query_codes"], codes["database_codes"]
    scores = list(run.scores(cell).average_precision.values())[-1]
    frames = "(green frame: a label in common)"
    for name, what, rows in (
        ("retrieved.png", "queries and their nearest images", gallery_rows(len(query))),
        ("misses.png", "the queries of lowest average precision", missed_rows(scores)),
    ):
        title = f"{cell.method}, {cell.bits} bits: {what} {frames}"
        figure = gallery_figure(query, database, *pair, cell.bits, rows, title=title)
        drawing.save_figure(figure, run.path / name)


@dataclass(frozen=True)
class Field:
    """A field of a table of the page, which a click on a header sorts.

    It is sorted by ``value`` where its text is no number; ``spread`` is shown small behind the
    text, ``title`` while the pointer rests on it; ``kind`` is a class of the style sheet.
    """

    text: str
    kind: str = ""
    value: float | None = None
    spread: str = ""
    title: str = ""


def page(
    folder: Path, results: Sequence[Result], leads: table.Rows,
    matrices: Sequence[tuple[str, table.Rows]],
    curves: Sequence[Chart], measures: Sequence[Chart], missing: Sequence[Cell] = (),
) -> str:  # fmt: skip
    """The page of a run's folder; leads and matrices are as :mod:`table` gives them."""
    first, beside = results[0], published.published_rows(results)
    style, script = (
        (PAGE / name).read_text(encoding="utf-8").strip() for name in ("report.css", "report.js")
    )
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["digest"] = _digest
    environment.globals |= {"drawing": drawing}
    return environment.get_template("report.html.j2").render(
        title=f"{first.dataset}, protocol {first.protocol}",
        subtitle=f"udmsh-pl {first.version}, {first.backbone}, split {first.split_sha256}",
        missing=missing,
        results=_results(table.Pivot.of(results)),
        leads=_table(table.LEADS_HEADER, leads, table.LEADS_NOTE, (0, 1, 2)),
        matrices=[(title, _matrix(rows)) for title, rows in matrices],
        matrix_note=table.MATRIX_NOTE,
        beside=_table(published.HEADER, [one.texts for one in beside], published.NOTE, (0, 1, 7)),
        curves=curves,
        methods=dict.fromkeys(line.method for chart in curves for line in chart.lines),
        measures=measures,
        pictures=[
            (title, text, base64.b64encode((folder / name).read_bytes()).decode())
            for name, title, text in ON_PAGE
            if (folder / name).is_file()
        ],
        costs=_costs(results),
        profile=_text(folder / PROFILE_FILE),
        values=_table(COLUMNS, [_values(result) for result in results]),
        environment=_environment(folder),
        config=_text(folder / "config.yaml"),
        citations=citations(),
        style=style,
        script=script,
    )


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", words: Sequence[int] = ()
) -> dict[str, Any]:
    """A table of the page; the columns ``words`` hold no numbers."""
    kinds = ["text" if column in words else "" for column in range(len(header))]
    return {"header": header, "rows": [list(map(Field, row, kinds)) for row in rows], "note": note}


def _matrix(rows: table.Rows) -> dict[str, Any]:
    """A matrix of leads as a table of the page."""

    def field(text: str) -> Field:
        return Field(text.strip("*"), "best" if text.startswith("**") else "")

    header, *lines = rows
    return {"header": header, "rows": [[Field(one[0]), *map(field, one[1:])] for one in lines]}


def _values(result: Result) -> list[str]:
    values = asdict(result).values()
    return [f"{one:.6g}" if isinstance(one, float) else str(one) for one in values]


def _results(pivot: table.Pivot) -> dict[str, Any]:
    """Methods against measures and code lengths: mean and spread, the seeds' values when asked."""
    best = {column: pivot.clear_winner(column) for column in pivot.columns}

    def field(method: str, column: table.Column) -> Field:
        values = pivot.values.get((method, column), [])
        if not values:
            return Field("")
        mean, spread = mean_and_spread(values)
        low, high = pivot.interval(method, column)
        seeds = ", ".join(f"{value:.4f}" for value in values)
        return Field(
            f"{mean:.3f}",
            "best" if method == best[column] else "",
            round(mean, 6),
            f"± {spread:.3f}" if spread is not None else "",
            f"seeds: {seeds}; order of ties alone: {low:.4f} to {high:.4f}",
        )

    return {
        "header": ["method", *map(table.column_title, pivot.columns)],
        "rows": [
            [Field(method), *(field(method, column) for column in pivot.columns)]
            for method in pivot.methods
        ],
        "notes": pivot.notes(),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _costs(results: Sequence[Result]) -> dict[str, Any]:
    peaks: dict[str, float] = {}
    for result in results:
        peaks[result.method] = max(peaks.get(result.method, 0.0), result.peak_gb)
    rows = [
        (method, f"{train:.1f}", f"{encode:.2f}", f"{peaks[method]:.2f}")
        for method, (train, encode) in table.costs(results).items()
    ]
    header = ("method", "training, s", "encoding, s", "peak memory so far, GB")
    return _table(header, rows, table.COSTS_NOTE)


def _environment(folder: Path) -> dict[str, Any]:
    found = read_object(folder / "environment.json")
    return dict(found.pop("versions", {})) | found


def _digest(text: str) -> str:
    """The hash by which the page's policy allows just this style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
