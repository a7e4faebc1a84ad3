"""Table, pictures and page of a finished run directory, read from its cells."""

import shutil
from collections.abc import Sequence

from udmsh_pl.images.image_list import Splits
from udmsh_pl.reports.curves import measure_charts, precision_recall_charts
from udmsh_pl.reports.drawing import figure_of, save_figure, save_print
from udmsh_pl.reports.gallery import gallery_figure, gallery_rows, missed_rows
from udmsh_pl.reports.html import page
from udmsh_pl.reports.results import Cell, Grid, Result
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.significance import leads, render_leads
from udmsh_pl.reports.table import render_costs, render_tables
from udmsh_pl.safe.files import atomic_path, write_text

PICTURES = ("pr_curve.png", "map_bits.png", "structure.png", "retrieved.png", "misses.png")


def write_report(
    run: RunDirectory,
    results: Sequence[Result],
    splits: Splits,
    plan: Grid,
    missing: Sequence[Cell] = (),
) -> str:
    """Write ``table.md``, :data:`PICTURES` and ``report.html``; gives the table's text.

    ``pr_curve.png`` is of the middle code length, galleries and structure are of the first seed
    too, the galleries of the last method.

    ``missing`` are cells that the plan has and the results do not; they are named under the table.
    """
    ahead = leads(run, plan)
    parts = [render_tables(results), *render_leads(ahead), render_costs(results)]
    if missing:
        parts.append(f"**Missing: {', '.join(cell.name for cell in missing)}.**")
    table = "\n\n".join(parts) + "\n"
    write_text(run.path / "table.md", table)
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
        save_print(figure_of(curves[bits], title), run.path / "pr_curve.png")
    if "mAP@ALL" in measures:
        save_print(figure_of(measures["mAP@ALL"], dataset), run.path / "map_bits.png")
    if cells:
        _write_galleries(run, splits, cells[-1])
    charts = list(curves.values()), list(measures.values())
    write_text(run.path / "report.html", page(run.path, results, ahead, *charts, missing))
    return table


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
        save_figure(figure, run.path / name)
