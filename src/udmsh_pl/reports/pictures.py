"""Figures as files, and how many queries a gallery shows."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from udmsh_pl.safe.files import atomic_path

GALLERY_QUERIES = 8


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=150)


def gallery_rows(queries: int) -> list[int]:
    """Rows of the queries that a gallery shows, spread evenly over all ``queries``."""
    spread = np.linspace(0, queries - 1, min(GALLERY_QUERIES, queries))
    return [int(row) for row in spread]


def missed_rows(average_precision: NDArray[np.float64]) -> list[int]:
    """Rows of the queries with the lowest AP; ties in the order of the queries."""
    order = np.argsort(average_precision, kind="stable")
    return [int(row) for row in order[:GALLERY_QUERIES]]
