"""How sure a lead is: the best method of each column against its runner-up, query by query."""

from collections.abc import Sequence

import numpy as np

from udmsh_pl.reports.results import Cell, Grid, learns_from_labels
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import markdown
from udmsh_pl.retrieval.bootstrap import paired_difference
from udmsh_pl.retrieval.ties import Cutoff, Float64s

HEADER = ("column", "best", "runner-up", "lead", "95 % interval", "p")
NOTE = (
    "Paired bootstrap over queries (2,000 resamples) of each query's expected AP, averaged over "
    "seeds."
)


def leads(run: RunDirectory, plan: Grid) -> list[tuple[str, ...]]:
    """Rows of a paired bootstrap over queries, per cut-off and code length, under ``HEADER``.

    A query's value is its expected AP@k, averaged over the seeds: the interval is about other
    queries, the table's spread about other seeds. Methods with an unfinished cell are left out;
    nothing is compared when fewer than two are there.
    """
    rows: list[tuple[str, ...]] = []
    values = _values(run, plan)
    for k in plan.ks:
        for bits in plan.bits:
            found = {name: aps[k] for (name, length), aps in values.items() if length == bits}
            if len(found) < 2:
                continue
            best, second = sorted(found, key=lambda name: -float(found[name].mean()))[:2]
            lead = paired_difference(found[best], found[second])
            column = f"mAP@{'ALL' if k is None else k}, {bits} bits"
            interval = f"{lead.lower:+.3f} to {lead.upper:+.3f}"
            numbers = f"{lead.mean:+.3f}", interval, f"{lead.p_value:.4f}"
            rows.append((column, best, second, *numbers))
    return rows


def render_leads(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Markdown of :func:`leads`, or nothing."""
    if not rows:
        return []
    rule = ("---", "---", "---", "---:", "---:", "---:")
    return [f"{markdown([HEADER, rule, *rows])}\n\n{NOTE}"]


def _values(run: RunDirectory, plan: Grid) -> dict[tuple[str, int], dict[Cutoff, Float64s]]:
    """Mean over seeds of each query's AP, by method and code length."""
    values = {}
    for name in plan.methods:
        if learns_from_labels(name):
            continue
        for bits in plan.bits:
            cells = [Cell(name, bits, seed) for seed in plan.seeds]
            if all((run.folder(cell) / "scores.npz").is_file() for cell in cells):
                found = [run.scores(cell).average_precision for cell in cells]
                values[name, bits] = {
                    k: np.mean([scores[k] for scores in found], axis=0) for k in plan.ks
                }
    return values
