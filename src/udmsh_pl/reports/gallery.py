"""A picture of what is found: queries with their nearest database images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from udmsh_pl.images.image_list import ImageList
from udmsh_pl.retrieval import unpack_codes

Codes = NDArray[np.uint8]
SIDE = 96  # pixels of a thumbnail


def nearest(
    query_codes: Codes, database_codes: Codes, bits: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and Hamming distances, each int64 ``[Q, count]``, of the nearest codes; ties in the
    order of the database.
    """
    query, database = (
        unpack_codes(codes, bits).astype(np.float32) for codes in (query_codes, database_codes)
    )
    distances = ((bits - query @ database.T) / 2).round().astype(np.int64)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(distances, rows, axis=1)


def gallery_figure(
    query: ImageList,
    database: ImageList,
    query_codes: Codes,
    database_codes: Codes,
    bits: int,
    rows: Sequence[int],
    count: int = 10,
    title: str = "",
) -> Figure:
    """Draw ``rows`` of the query split with their ``count`` nearest; relevant ones have a green
    frame, others a red one.
    """
    found, distances = nearest(query_codes[list(rows)], database_codes, bits, count)
    figure = Figure(figsize=(0.95 * (count + 1.3), 1.16 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), count + 1, squeeze=False)
    for line, row in enumerate(rows):
        grid[line, 0].imshow(query.load(row).resize((SIDE, SIDE)))
        grid[line, 0].set_title("query", fontsize=7, pad=2)
        for place in range(count):
            axes, other = grid[line, place + 1], int(found[line, place])
            axes.imshow(database.load(other).resize((SIDE, SIDE)))
            axes.set_xlabel(f"{distances[line, place]} bits", fontsize=7, labelpad=2)
            relevant = bool((query.labels[row] & database.labels[other]).any())
            for spine in axes.spines.values():
                spine.set_edgecolor("tab:green" if relevant else "tab:red")
                spine.set_linewidth(3)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(
        title or f"The {count} nearest of {len(database):,} images at {bits} bits", fontsize=9
    )
    return figure
