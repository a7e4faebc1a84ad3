"""A picture of queries with their nearest database images, and which queries it shows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from udmsh_pl.images.image_list import ImageList
from udmsh_pl.retrieval.codes import code_words, popcounts

Codes = NDArray[np.uint8]
Colour = tuple[int, int, int]
SIDE, FRAME, GAP = 96, 4, 4  # pixels of a thumbnail, its frame, the white around
CELL = SIDE + 2 * FRAME + 2 * GAP
ROW, TITLE, DPI = CELL + 20, 30, 100  # a row with its notes, the title above
GALLERY_QUERIES = 8
HIT, MISS, QUERY_FRAME = (44, 160, 44), (214, 39, 40), (60, 60, 60)


def nearest(
    query_codes: Codes, database_codes: Codes, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and Hamming distances, int64 ``[Q, count]``, of the nearest codes; ties by row."""
    database = code_words(database_codes)
    distances = np.array([popcounts(database ^ code) for code in code_words(query_codes)])
    rows = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(distances, rows, axis=1)


def gallery_rows(queries: int) -> list[int]:
    """Rows of the queries that a gallery shows, spread evenly over all ``queries``."""
    spread = np.linspace(0, queries - 1, min(GALLERY_QUERIES, queries))
    return list(map(int, spread))


def missed_rows(average_precision: NDArray[np.float64]) -> list[int]:
    """Rows of the queries with the lowest AP; ties in the order of the queries."""
    order = np.argsort(average_precision, kind="stable")
    return list(map(int, order[:GALLERY_QUERIES]))


def gallery_figure(
    query: ImageList, database: ImageList, query_codes: Codes, database_codes: Codes, bits: int,
    rows: Sequence[int], count: int = 10, title: str = "",
) -> Figure:  # fmt: skip
    """Draw ``rows`` of the query split with their nearest; relevant ones have a green frame."""
    found, distances = nearest(query_codes[list(rows)], database_codes, count)
    width, height = CELL * (count + 1), ROW * len(rows)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=((width / DPI), (height + TITLE) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, height / (height + TITLE)))

    def draw(at: tuple[int, int], images: ImageList, row: int, frame: Colour, text: str) -> None:
        # on a canvas that is drawn at once: an axes each takes seconds
        top, left, edge = at[0] * ROW, at[1] * CELL, SIDE + 2 * FRAME
        area = canvas[top + GAP : top + GAP + edge, left + GAP : left + GAP + edge]
        area[:] = frame
        picture = images.load(row).convert("RGB").resize((SIDE, SIDE))
        area[FRAME:-FRAME, FRAME:-FRAME] = np.asarray(picture)
        axes.text(left + GAP + edge / 2, top + CELL, text, fontsize=7, ha="center", va="top")

    for line, row in enumerate(rows):
        draw((line, 0), query, row, QUERY_FRAME, "query")
        near = zip(found[line].tolist(), distances[line].tolist(), strict=True)
        for place, (other, distance) in enumerate(near, start=1):
            relevant = (query.labels[row] & database.labels[other]).any()
            text = f"{distance} bit" + ("" if distance == 1 else "s")
            draw((line, place), database, other, HIT if relevant else MISS, text)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    text = title or f"The {count} nearest of {len(database):,} images at {bits} bits"
    figure.suptitle(text, fontsize=9, y=1 - TITLE / 2 / (height + TITLE), va="center")
    return figure
