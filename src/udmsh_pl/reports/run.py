"""What a run directory shows when it is finished: table and pictures."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from udmsh_pl.callbacks.figures import save_figure
from udmsh_pl.cli import ReproducePlan
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.files import atomic_path, write_text
from udmsh_pl.reports.gallery import gallery_figure
from udmsh_pl.reports.table import Result, render_table

GALLERY_QUERIES = 8


def write_report(out: Path, results: Sequence[Result], datamodule: RetrievalDataModule, plan: ReproducePlan) -> None:
    """Write ``table.md``, ``structure.png`` and ``retrieved.png`` of the plan's last method at its middle code length."""
    write_text(out / "table.md", render_table(results) + "\n")
    bits, seed = sorted(plan.bits)[len(plan.bits) // 2], plan.seeds[0]
    cells = {name: out / "cells" / f"{name}-{bits}-{seed}" for name in plan.methods}
    for cell in cells.values():
        if (cell / "logs" / "structure.png").is_file():
            with atomic_path(out / "structure.png") as partial:
                shutil.copyfile(cell / "logs" / "structure.png", partial)
            break
    shown = list(plan.methods)[-1]
    query = datamodule.splits.by_name()["query"]
    with np.load(cells[shown] / "codes.npz", allow_pickle=False) as codes:
        rows = np.linspace(0, len(query) - 1, GALLERY_QUERIES).astype(int).tolist()
        figure = gallery_figure(
            query,
            datamodule.splits.database,
            codes["query_codes"],
            codes["database_codes"],
            bits,
            rows,
            title=f"{shown}, {bits} bits: queries and their ten nearest (green: shares a label)",
        )
    save_figure(figure, out / "retrieved.png")
