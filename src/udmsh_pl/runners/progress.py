"""What a running plan shows: a line a cell, a bar on a terminal, the rest in a log file."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from udmsh_pl.plan import Cell
from udmsh_pl.results import Result

CHATTY = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning", "py.warnings")


class Progress:
    """Lines and a bar over the cells of a plan.

    Args:
        cells: all cells
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self.shown = 0
        self._bar: Any = tqdm(
            total=len(cells), unit="cell", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )

    def starts(self, cell: Cell) -> None:
        """Name the cell beside the bar."""
        self._bar.set_description(cell.name)

    def ends(self, cell: Cell, state: str, rows: Sequence[Result]) -> None:
        """Print the cell's scores."""
        self.shown += 1
        scores = [row for row in rows if row.ties == "expected"]
        told = ", ".join(f"{_label(row)} {row.value:.3f}" for row in scores)
        seconds = f" ({scores[0].seconds:.1f} s)" if scores and state == "ran" else ""
        number = f"[{self.shown}/{len(self.cells)}]"
        name = f"{cell.method}, {cell.bits} bits, seed {cell.seed}"
        again = "" if state == "ran" else f" ({state})"
        tqdm.write(f"{number} {name}: {told}{seconds}{again}", file=sys.stdout)
        sys.stdout.flush()
        self._bar.update()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


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
