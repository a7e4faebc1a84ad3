"""What a running plan shows: a line for the seeds of a method and code length, a bar on a terminal,
the rest in a log file.
"""

import logging
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from udmsh_pl.reports.results import Cell
from udmsh_pl.reports.results import Result

CHATTY = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning", "py.warnings")
SHOWN = 2  # measures in a line, the last ones of a plan; the table has all


class Progress:
    """Lines and a bar over the cells of a plan.

    Args:
        cells: all cells
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self.shown = 0
        self._ended: dict[Cell, tuple[str, list[Result]]] = {}
        self._bar: Any = tqdm(
            total=len(cells), unit="cell", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )

    def starts(self, cell: Cell) -> None:
        """Name the cell beside the bar."""
        self._bar.set_description(cell.name)

    def ends(self, cell: Cell, state: str, rows: Sequence[Result]) -> None:
        """Note a cell's scores; the last seed of a method and code length prints them all, so that
        a plan of many seeds stays on a screen.
        """
        self.shown += 1
        self._bar.update()
        together = [one for one in self.cells if (one.method, one.bits) == (cell.method, cell.bits)]
        self._ended[cell] = state, [row for row in rows if row.ties == "expected"]
        if not all(one in self._ended for one in together):
            return
        ended = [self._ended[one] for one in together]
        values: dict[str, list[float]] = {}
        for _, scores in ended:
            for row in scores:
                values.setdefault(_label(row), []).append(row.value)
        last = list(values.items())[-SHOWN:]
        told = ", ".join(f"{name} {_spread(found)}" for name, found in last)
        spent = [scores[0].seconds for state, scores in ended if state == "ran" and scores]
        each = " a seed" if len(spent) > 1 else ""
        seconds = f" ({statistics.fmean(spent):.1f} s{each})" if spent else f" ({state})"
        seeds = " ".join(str(one.seed) for one in together)
        name = f"{cell.method}, {cell.bits} bits, seed{'s' if len(together) > 1 else ''} {seeds}"
        line = f"[{self.shown}/{len(self.cells)}] {name}: {told}{seconds}"
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _label(row: Result) -> str:
    name = "mAP" if row.metric == "map" else row.metric
    return f"{name}@{row.k.upper()}"


def log_to(path: Path) -> None:
    """Send what Lightning and warnings say to a file instead of the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    for name in CHATTY:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
