"""Whether two thumbnails show the same picture, and how one lies on the other: as it is, mirrored,
rotated, or cut out of it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Relation = Literal[
    "first", "link", "exact", "recompressed", "resized", "cropped", "mirrored", "rotated", "similar"
]
SIDE = 64  # pixels of the square that thumbnails are compared in
FINE, COARSE = 0.8, 4.0  # pixels: what is smaller is noise, what is larger is light
FAINT = 3.0  # grey values: contrast is evened out above, so that one horizon does not decide
# Agreement of copies. Of 300 copies none had less than .84 (.84 cut out, .91 others), of 500 pairs
# of like pictures that are no copies none more than .71 cut out, .51 else.
ENOUGH, ENOUGH_CUT = 0.70, 0.78
SURE = 0.9  # agreement beyond which no cut is tried
PROMISING = 0.55  # agreement of cuts at a quarter of the pixels, beyond which all are tried
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a side that a cut may leave
LEAST_SHARE = 0.8  # of a side that two cuts of one picture share
STEPS = 40.0  # of one unit of detail in a byte
# the eight ways to turn and mirror a picture, the picture as it is first
TURNS: tuple[Image.Transpose | None, ...] = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
Plane = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the sides
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class Placement(NamedTuple):
    """Where two pictures show the same: ``turn`` of :data:`TURNS` comes first on the second one,
    then its box ``two`` shows what the box ``one`` of the first picture does.
    """

    turn: int = 0
    one: Box = WHOLE
    two: Box = WHOLE


@dataclass(frozen=True)
class Overlap:
    """How two pictures lie on each other."""

    relation: Relation  # recompressed (as it is), cropped, mirrored or rotated
    agreement: float  # normalised correlation of details, -1 to 1
    placement: Placement

    @property
    def is_copy(self) -> bool:
        """Whether they agree as only copies do."""
        return self.agreement >= (ENOUGH_CUT if self.relation == "cropped" else ENOUGH)


def open_thumbnail(thumbnail: bytes) -> Image.Image:
    """RGB of a JPEG, decoded at no more pixels than :class:`Details` needs."""
    with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as image:
        image.draft("RGB", (SIDE, SIDE))
        return image.convert("RGB")


def details_of(image: Image.Image) -> NDArray[np.int8]:
    """int8 [64, 64]: a picture's grey between two blurs, of even contrast, in a square."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.float32)
    fine, coarse = _blur(FINE), _blur(COARSE)
    band = fine @ grey @ fine.T - coarse @ grey @ coarse.T
    around = np.sqrt(coarse @ band**2 @ coarse.T + FAINT**2)
    return np.rint(np.clip(STEPS * band / around, -127, 127)).astype(np.int8)


class Details:
    """What is compared of a picture; spectra are made when they are asked for.

    Args:
        source: a thumbnail's JPEG, or its :func:`details_of`
    """

    def __init__(self, source: bytes | NDArray[np.int8]) -> None:
        plane = details_of(open_thumbnail(source)) if isinstance(source, bytes) else source
        self.plane: Plane = plane.astype(np.float32) / np.float32(STEPS)

    @cached_property
    def ways(self) -> NDArray[np.float32]:
        """The plane in the eight ways of :data:`TURNS`, each of length 1, [8, 4096]."""
        image = Image.fromarray(self.plane)
        ways = [image if turn is None else image.transpose(turn) for turn in TURNS]
        flat = np.stack([np.asarray(way).ravel() for way in ways])
        length = max(float(np.linalg.norm(self.plane)), 1e-9)
        return np.asarray(flat / length, dtype=np.float32)

    @cached_property
    def coarse(self) -> "_Layers":
        """For a first look at cuts: a quarter of the pixels, sizes a tenth apart."""
        return _Layers(self.plane.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)), SHARES[::2])

    @cached_property
    def fine(self) -> "_Layers":
        """For cuts that look promising."""
        return _Layers(self.plane, SHARES)


class _Layers:
    """A plane for correlation with cuts of another, and it squeezed as a cut of the other."""

    def __init__(self, plane: Plane, shares: Sequence[float]) -> None:
        self.plane, self.side = plane, len(plane)
        sides = [round(self.side * share) for share in shares]
        self.sizes = [pair for pair in product(sides, sides) if pair != plane.shape]
        self.spectrum = np.asarray(np.fft.rfft2(plane), dtype=np.complex64)
        # sums of squares over all rectangles from the corner, [side + 1, side + 1]
        self.energy = np.zeros((self.side + 1, self.side + 1))
        self.energy[1:, 1:] = (plane.astype(np.float64) ** 2).cumsum(0).cumsum(1)
        placed = np.zeros((len(self.sizes), self.side, self.side), dtype=np.float32)
        for number, (height, width) in enumerate(self.sizes):
            small = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
            placed[number, :height, :width] = np.asarray(small)
        # of the plane squeezed to each size: conjugate spectra, and the roots of their energy
        self.cuts = np.asarray(np.conj(np.fft.rfft2(placed)), dtype=np.complex64)
        self.lengths = np.sqrt((placed**2).sum((1, 2)))

    def best_cut(self, part: "_Layers") -> tuple[float, Box]:
        """How well ``part`` agrees with the best rectangle of this plane, and that rectangle."""
        side, sums = self.side, self.energy
        found = np.fft.irfft2(self.spectrum * part.cuts, s=(side, side))
        best, box = -1.0, WHOLE
        for (height, width), plane, length in zip(self.sizes, found, part.lengths, strict=True):
            down, right = side - height + 1, side - width + 1
            window = sums[height:, width:] - sums[:down, width:] - sums[height:, :right]
            window = window + sums[:down, :right]
            scores = plane[:down, :right] / np.sqrt(np.maximum(window, 1e-9) * length**2 + 1e-9)
            top, left = divmod(int(scores.argmax()), right)
            if scores[top, left] > best:
                best = float(scores[top, left])
                box = left / side, top / side, (left + width) / side, (top + height) / side
        return best, box

    def best_shift(self, other: "_Layers") -> tuple[float, Box, Box]:
        """How well the shared part of both agrees, at the best of all shifts, and its two boxes."""
        side, most = self.side, round(self.side * (1 - LEAST_SHARE))
        shape = (2 * side, 2 * side)
        mine, others = (np.fft.rfft2(one.plane, s=shape) for one in (self, other))
        products = np.fft.irfft2(mine * np.conj(others), s=shape)
        steps = np.arange(-most, most + 1)
        starts = np.maximum(steps, 0), np.maximum(-steps, 0)  # where the shared part begins
        ends = [start + side - np.abs(steps) for start in starts]
        energies = [
            _rectangles(one.energy, start, end)
            for one, start, end in zip((self, other), starts, ends, strict=True)
        ]
        scores = products[np.ix_(steps, steps)] / np.sqrt(energies[0] * energies[1] + 1e-9)
        row, column = divmod(int(scores.argmax()), len(steps))
        one, two = (
            (start[column] / side, start[row] / side, end[column] / side, end[row] / side)
            for start, end in zip(starts, ends, strict=True)
        )
        return float(scores[row, column]), one, two


def overlap(one: Details, two: Details, cuts: bool = True) -> Overlap:
    """The best of all ways to lay two pictures on each other. ``cuts``, which take a hundred times
    as long, are tried where no other way is beyond doubt.
    """
    scores = two.ways @ one.ways[0]
    turn = int(scores.argmax())
    relation: Relation = ("recompressed", "mirrored")[turn] if turn < 2 else "rotated"
    best = Overlap(relation, float(scores[turn]), Placement(turn))
    if best.agreement >= SURE or not cuts:
        return best
    coarse, other = one.coarse, two.coarse
    found = [coarse.best_cut(other)[0], other.best_cut(coarse)[0], coarse.best_shift(other)[0]]
    if max(found) < PROMISING:
        return best
    agreement, box = one.fine.best_cut(two.fine)
    back, back_box = two.fine.best_cut(one.fine)
    shared, mine, others = one.fine.best_shift(two.fine)
    ways = [
        best,
        Overlap("cropped", agreement, Placement(0, box, WHOLE)),
        Overlap("cropped", back, Placement(0, WHOLE, back_box)),
        Overlap("cropped", shared, Placement(0, mine, others)),
    ]
    return max(ways, key=lambda way: way.agreement)


def _rectangles(
    sums: NDArray[np.float64], starts: NDArray[Any], ends: NDArray[Any]
) -> NDArray[np.float64]:
    """Energy of the rectangles of all pairs of rows and columns."""
    outer = sums[np.ix_(ends, ends)] - sums[np.ix_(starts, ends)]
    return np.asarray(outer - sums[np.ix_(ends, starts)] + sums[np.ix_(starts, starts)])


@cache
def _blur(sigma: float) -> Plane:
    """Gaussian blur of a line of SIDE values, as a matrix; the line is mirrored at its ends."""
    reach = int(3 * sigma) + 1  # by NumPy: SciPy's takes .4 s to import, which a server would wait
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    source = np.pad(np.arange(SIDE), reach, mode="reflect")
    matrix = np.zeros((SIDE, SIDE), dtype=np.float32)
    for row in range(SIDE):
        np.add.at(matrix[row], source[row : row + 2 * reach + 1], kernel / kernel.sum())
    return matrix
