"""Whether two thumbnails show the same picture, and how: as it is, mirrored, rotated, cut out."""

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
BY_TURN: tuple[Relation, ...] = ("recompressed", "mirrored", *6 * ("rotated",))
Plane = NDArray[np.float32]
Planes = NDArray[np.floating[Any]]  # of P pictures
Ends = tuple[NDArray[np.int64], NDArray[np.int64]]  # where intervals start and end
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
    """What is compared of one picture, or of P pictures at once.

    Args:
        source: a thumbnail's JPEG, or :func:`details_of` one [64, 64] or several [P, 64, 64]
    """

    def __init__(self, source: bytes | NDArray[np.int8] | Planes) -> None:
        found = details_of(open_thumbnail(source)) if isinstance(source, bytes) else source
        self.planes: Planes = found.reshape(-1, *found.shape[-2:]).astype(np.float32)
        self.side = self.planes.shape[1]

    def take(self, places: NDArray[np.int64]) -> "Details":
        """Some of the pictures."""
        return Details(self.planes[places])

    @cached_property
    def half(self) -> "Details":
        """The same at a quarter of the pixels."""
        rows = self.planes[:, ::2] + self.planes[:, 1::2]
        return Details((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """Sums of squares over all rectangles from the corner, [P, side + 1, side + 1]."""
        sums = np.zeros((len(self.planes), self.side + 1, self.side + 1))
        np.cumsum(self.planes.astype(np.float64) ** 2, axis=1, out=sums[:, 1:, 1:])
        return np.cumsum(sums, axis=2, out=sums)


def overlap(one: Details, two: Details, cuts: bool = True) -> Overlap:
    """:func:`overlaps` of one pair."""
    [found] = overlaps(one, two, np.array([cuts]))
    return found


def overlaps(ones: Details, others: Details, cuts: NDArray[np.bool_]) -> list[Overlap]:
    """The best of all ways to lay each of P pictures on its other one. Cuts take a hundred times as
    long: they are tried where ``cuts``, bool [P], says so, no other way is beyond doubt, and a
    first look at a quarter of the pixels is promising.
    """
    scores = _turns(ones, others)
    turns, agreements = scores.argmax(0), scores.max(0)
    found = [
        Overlap(BY_TURN[turn], agreement, Placement(turn))
        for turn, agreement in zip(turns.tolist(), agreements.tolist(), strict=True)
    ]
    tried = np.flatnonzero(cuts & (agreements < SURE))
    if len(tried):
        tried = tried[_first_look(ones.take(tried), others.take(tried)) >= PROMISING]
    if not len(tried):
        return found
    one, two = ones.take(tried), others.take(tried)
    whole = np.tile(np.array(WHOLE, np.float32), (len(tried), 1))
    (cut, own), (back, its) = _best_cut(one, two, SHARES), _best_cut(two, one, SHARES)
    ways = (cut, own, whole), (back, whole, its), _best_shift(one, two)
    for place, row in enumerate(tried.tolist()):
        for agreement, first, second in ways:
            if agreement[place] > found[row].agreement:
                boxes = _box(first[place]), _box(second[place])
                found[row] = Overlap("cropped", float(agreement[place]), Placement(0, *boxes))
    return found


def _turns(ones: Details, others: Details) -> Planes:
    """Agreement of P pictures with the others in the eight ways of :data:`TURNS`, [8, P]."""
    planes = others.planes
    across = planes.swapaxes(1, 2)
    ways = (
        planes, planes[:, :, ::-1], across[:, ::-1], planes[:, ::-1, ::-1],
        across[:, :, ::-1], planes[:, ::-1], across, across[:, ::-1, ::-1],
    )  # fmt: skip
    lengths = np.sqrt(_energy(ones.planes) * _energy(planes)).clip(1e-9)
    products = [np.einsum("pij,pij->p", ones.planes, way) for way in ways]
    return np.asarray(np.stack(products) / lengths)


def _first_look(ones: Details, others: Details) -> Planes:
    """The best cut's or shift's agreement, [P], at a quarter of the pixels, sizes a tenth apart."""
    one, other = ones.half, others.half
    cuts = [_best_cut(*pair, SHARES[::2])[0] for pair in ((one, other), (other, one))]
    return np.asarray(np.max([*cuts, _best_shift(one, other)[0]], axis=0))


def _best_cut(wholes: Details, parts: Details, shares: Sequence[float]) -> tuple[Planes, Planes]:
    """How well parts agree with the best rectangle of P pictures, [P], and that, [P, 4]."""
    from scipy import fft  # slow to load, and faster than NumPy's

    side, count = wholes.side, len(wholes.planes)
    best, boxes = np.full(count, -1, np.float32), np.tile(np.array(WHOLE, np.float32), (count, 1))
    spectra = fft.rfft2(wholes.planes)
    sides = [round(side * share) for share in shares]
    for height, width in product(sides, sides):
        if (height, width) == (side, side):
            continue
        down, right = np.arange(side - height + 1), np.arange(side - width + 1)
        cuts = _squeeze(side, height) @ parts.planes @ _squeeze(side, width).T
        columns = fft.ifft(spectra * fft.rfft2(cuts, s=(side, side)).conj(), axis=1)
        found = fft.irfft(columns[:, : len(down)], side)  # at the shifts that there are
        energy = _rectangles(wholes.sums, (down, down + height), (right, right + width))
        energy = np.maximum(energy, 1e-9) * _energy(cuts)[:, None, None]
        scores = found[:, :, : len(right)] / np.sqrt(energy + 1e-9)
        places = scores.reshape(count, len(down) * len(right)).argmax(1)
        top, left = np.divmod(places, len(right))
        score = scores[np.arange(count), top, left]
        better = score > best
        best[better] = score[better]
        corners = np.stack([left, top, left + width, top + height], 1) / side
        boxes[better] = corners[better]
    return best, boxes


def _best_shift(ones: Details, others: Details) -> tuple[Planes, Planes, Planes]:
    """Agreement of the shared part of P pictures, [P], at the best shift; both boxes, [P, 4]."""
    from scipy import fft

    side, count, most = ones.side, len(ones.planes), round(ones.side * (1 - LEAST_SHARE))
    shape = 2 * (-(-(side + most) // 8) * 8,)  # room for shifts, of small factors
    spectra = [fft.rfft2(one.planes, s=shape) for one in (ones, others)]
    products = fft.irfft2(spectra[0] * spectra[1].conj(), s=shape)
    steps = np.arange(-most, most + 1)
    starts = np.maximum(steps, 0), np.maximum(-steps, 0)  # where the shared part begins
    ends = [start + side - np.abs(steps) for start in starts]
    energies = [
        _rectangles(one.sums, (start, end), (start, end))
        for one, start, end in zip((ones, others), starts, ends, strict=True)
    ]
    scores = products[:, steps[:, None], steps] / np.sqrt(energies[0] * energies[1] + 1e-9)
    row, column = np.divmod(scores.reshape(count, len(steps) ** 2).argmax(1), len(steps))
    one, two = (
        np.stack([start[column], start[row], end[column], end[row]], 1) / np.float32(side)
        for start, end in zip(starts, ends, strict=True)
    )
    return scores[np.arange(count), row, column], one, two


def _box(corners: Planes) -> Box:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom


def _energy(planes: Planes) -> Planes:
    return np.asarray(np.einsum("pij,pij->p", planes, planes))


def _rectangles(sums: NDArray[np.float64], rows: Ends, columns: Ends) -> NDArray[np.float64]:
    """Sums over the rectangles of all pairs of rows and columns, (starts, ends) each."""
    (top, bottom), (left, right) = (rows[0][:, None], rows[1][:, None]), columns
    outer = sums[:, bottom, right] - sums[:, top, right]
    return np.asarray(outer - sums[:, bottom, left] + sums[:, top, left])


@cache
def _squeeze(side: int, size: int) -> Plane:
    """PIL's bilinear resize of a line of ``side`` values to ``size``, as a matrix."""
    identity = Image.fromarray(np.eye(side, dtype=np.float32))
    return np.asarray(identity.resize((side, size), Image.Resampling.BILINEAR))


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
