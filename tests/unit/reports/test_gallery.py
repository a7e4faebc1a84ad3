"""A gallery shows each query, its nearest in order, and in the frame whether they are relevant."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from udmsh_pl.images import ImageList
from udmsh_pl.reports.gallery import CELL, FRAME, GAP, HIT, MISS, ROW, SIDE, gallery_figure, nearest
from udmsh_pl.retrieval import pack_codes

BITS, COUNT = 16, 5


def images(count: int, generator: np.random.Generator) -> ImageList:
    labels = np.eye(3, dtype=bool)[np.arange(count) % 3]
    pixels = np.repeat(generator.integers(0, 256, (count, 1, 1, 3)), 9, axis=1).repeat(9, axis=2)
    return ImageList([f"{row}" for row in range(count)], labels, pixels=pixels.astype(np.uint8))


def test_pictures_frames_and_notes_are_of_the_nearest() -> None:
    generator = np.random.default_rng(0)
    query, database = images(7, generator), images(40, generator)
    signs = [generator.choice([-1, 1], (len(one), BITS)) for one in (query, database)]
    distances = (signs[0][:, None] != signs[1][None]).sum(2)  # [7, 40]
    codes = [pack_codes(one) for one in signs]
    rows = [4, 1]
    figure = gallery_figure(query, database, *codes, BITS, rows, COUNT)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[-ROW * len(rows) :, :, :3]

    expected = np.argsort(distances, axis=1, kind="stable")[:, :COUNT]
    found, far = nearest(codes[0], codes[1], COUNT)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(far, np.take_along_axis(distances, expected, axis=1))
    for line, row in enumerate(rows):
        top = line * ROW + GAP
        shown = [(query, row), *((database, int(other)) for other in expected[row])]
        for place, (source, other) in enumerate(shown):
            left = place * CELL + GAP
            middle = drawn[top + FRAME + SIDE // 2, left + FRAME + SIDE // 2]
            np.testing.assert_allclose(middle, source.pixels[other, 4, 4], atol=1)
            if place:
                relevant = bool((query.labels[row] & database.labels[other]).any())
                edge = drawn[top + FRAME // 2, left + SIDE // 2]
                np.testing.assert_allclose(edge, HIT if relevant else MISS, atol=1)
    notes = [text.get_text() for text in figure.axes[0].findobj(Text) if text.get_text()]
    told = {1: "1 bit"} | {far: f"{far} bits" for far in (0, *range(2, BITS + 1))}
    far = [[told[distances[row, other]] for other in expected[row]] for row in rows]
    assert notes == [note for line in far for note in ("query", *line)]
