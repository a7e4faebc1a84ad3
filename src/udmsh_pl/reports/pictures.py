"""Figures as files, and how many queries a gallery shows."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from udmsh_pl.files import atomic_path

GALLERY_QUERIES = 8


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=150)


def gallery_rows(queries: int) -> list[int]:
    """Rows of the queries that a gallery shows, spread evenly over all ``queries``."""
    spread = np.linspace(0, queries - 1, min(GALLERY_QUERIES, queries))
    return [int(row) for row in spread]
