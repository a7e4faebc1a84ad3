"""What a run directory shows when it is finished: table and pictures."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from udmsh_pl.callbacks.figures import GALLERY_QUERIES, save_figure
from udmsh_pl.cli import ReproducePlan
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.files import atomic_path, write_text
from udmsh_pl.reports.curves import map_against_bits_figure, precision_recall_figure, save_print
from udmsh_pl.reports.gallery import gallery_figure
from udmsh_pl.reports.significance import best_against_runner_up
from udmsh_pl.reports.table import Result, render_costs, render_table
from udmsh_pl.retrieval import evaluate_codes


def write_report(
    out: Path, results: Sequence[Result], datamodule: RetrievalDataModule, plan: ReproducePlan
) -> None:
    """Write ``table.md``, curves, ``structure.png`` and ``retrieved.png`` (last method, middle
    length, first seed).
    """
    splits = datamodule.splits.by_name()
    lead = best_against_runner_up(out, results, plan)
    write_text(
        out / "table.md", "\n\n".join([render_table(results), *lead, render_costs(results)]) + "\n"
    )
    query, database = splits["query"], splits["database"]
    bits, seed = sorted(plan.bits)[len(plan.bits) // 2], plan.seeds[0]
    cells = {name: out / "cells" / f"{name}-{bits}-{seed}" for name in plan.methods}
    pictures = [
        path for cell in cells.values() if (path := cell / "logs" / "structure.png").is_file()
    ]
    if pictures:
        with atomic_path(out / "structure.png") as partial:
            shutil.copyfile(pictures[0], partial)
    reports = {}
    for name, cell in cells.items():
        with np.load(cell / "codes.npz", allow_pickle=False) as codes:
            pair = codes["query_codes"], codes["database_codes"]
        reports[name] = evaluate_codes(*pair, query.labels, database.labels, bits)
    title = f"{datamodule.splits.protocol.dataset}, {bits} bits, seed {seed}"
    save_print(precision_recall_figure(reports, title), out / "pr_curve.png")
    values: dict[str, dict[int, list[float]]] = {}
    for result in results:
        if result.k == "all" and result.ties != "id":
            values.setdefault(result.method, {}).setdefault(result.bits, []).append(result.value)
    save_print(
        map_against_bits_figure(values, title=datamodule.splits.protocol.dataset),
        out / "map_bits.png",
    )
    rows = np.linspace(0, len(query) - 1, min(GALLERY_QUERIES, len(query))).astype(int).tolist()
    shown = (
        f"{name}, {bits} bits: queries and their nearest images (green frame: a label in common)"
    )
    save_figure(
        gallery_figure(query, database, *pair, bits, rows, title=shown), out / "retrieved.png"
    )
