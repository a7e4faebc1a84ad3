"""Whether two files show the same picture in every part. *Ours*.

Thumbnails of one form with other numbers agree as those of copies do. So the files themselves are
laid on each other, their levels are made equal, and the largest difference that is left *anywhere*
decides: what compression leaves is small beside the contrast around it, another digit is not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from udmsh_pl.search.overlap import TURNS, Box, Placement

SIDE = 512  # pixels of the longer side that files are compared at
LEVELS = (80, 160, 320)  # pixels of that side at which the place of a cut is refined
ROUNDS = 10  # of the refinement, at each
SMOOTH = 0.7  # pixels: deviation of the blur that removes the noise of single pixels
WINDOW = 3.0  # pixels: deviation of the window that a difference is measured in
# Grey values that compression leaves where there is no contrast, and the share of the contrast
# around. Of copies 98 of 100 then have at most half of it, of pictures with another number 1.2.
NOISE, SHARE = 8.0, 0.3
MARGIN = 2  # pixels at the edges that are not compared
LEAST_GAIN = 0.33  # a picture whose contrast must shrink by more says nothing of the other
FURTHEST = 0.3  # of a side that the refinement may move a picture; beyond, it has gone astray
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]


def largest_difference(one: Image.Image, two: Image.Image, placement: Placement) -> float:
    """The largest local difference of two RGB pictures where they show the same, in units of what
    compression leaves: copies have less than 1.
    """
    turn = TURNS[placement.turn]
    upright = two if turn is None else two.transpose(turn)
    cuts = [_cut(one, placement.one), _cut(upright, placement.two)]
    width, height = (min(cut.size[axis] for cut in cuts) for axis in range(2))
    first, second = (_pixels(cut, width, height, SIDE) for cut in cuts)
    difference = _difference(first, second)
    if difference < 1:
        return difference
    moved, inside = _moved(second, _place(cuts, width, height))
    return min(difference, _difference(first[inside], moved[inside]))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    pairs = zip(box, 2 * image.size, strict=True)
    left, top, right, bottom = (round(share * size) for share, size in pairs)
    return image.crop((left, top, right, bottom))


def _pixels(image: Image.Image, width: int, height: int, side: int) -> Pixels:
    """Float32 [h, w, 3] of that shape, but the longer side at most ``side``."""
    share = min(1.0, side / max(width, height))
    size = max(round(width * share), 8), max(round(height * share), 8)
    resized = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    return np.asarray(resized, dtype=np.float32)


def _difference(one: Pixels, two: Pixels) -> float:
    """The smaller of both ways: one picture may have lost colours or lights that the other has."""
    return min(_from(one, two), _from(two, one))


def _from(source: Pixels, goal: Pixels) -> float:
    expected, grey = _with_levels_of(goal, source) @ GREY, goal @ GREY
    if min(grey.shape) <= 2 * MARGIN or expected.std() < LEAST_GAIN * (source @ GREY).std():
        return float("inf")
    left = np.sqrt(gaussian_filter(gaussian_filter(expected - grey, SMOOTH) ** 2, WINDOW))
    contrast = np.sqrt(np.minimum(_contrast(expected), _contrast(grey)))
    return float((left / (NOISE + SHARE * contrast))[MARGIN:-MARGIN, MARGIN:-MARGIN].max())


def _contrast(grey: Pixels) -> Pixels:
    return np.asarray(gaussian_filter((grey - gaussian_filter(grey, WINDOW)) ** 2, WINDOW))


def _with_levels_of(goal: Pixels, source: Pixels) -> Pixels:
    """``source`` with the brightness, contrast and colours of ``goal``: each channel is a clipped
    sum of the three and a constant, fitted to the nine tenths that agree best.
    """
    known, wanted = source[::2, ::2].reshape(-1, 3), goal[::2, ::2].reshape(-1, 3)
    made = np.empty_like(source)
    for channel in range(3):
        own, to = known[:, channel], wanted[:, channel]
        clipped = ((to > 251) & (own < 249)) | ((to < 4) & (own > 6))
        used = ~clipped
        for _ in range(3):
            if not used.any():
                used[:] = True
            centre, level = known[used].mean(0), to[used].mean()
            some = known[used] - centre
            ridge = 20.0 * len(some) * np.eye(3, dtype=np.float32)
            goals = some.T @ (to[used] - level) + ridge[channel]  # one channel stays as it is
            gains = np.linalg.solve(some.T @ some + ridge, goals)
            apart = np.abs((known - centre) @ gains + level - to)
            used = ~clipped & (apart <= max(float(np.quantile(apart, 0.9)), 2.0))
        made[..., channel] = (source - centre) @ gains + level
    return np.clip(made, 0, 255)


def _place(cuts: Sequence[Image.Image], width: int, height: int) -> Floats:
    """Scale and shift of both sides, in shares, of the second picture: Lucas and Kanade (1981)."""
    start = np.array([1.0, 0.0, 1.0, 0.0])
    place = start
    for side in LEVELS:
        first, second = (_normal(_pixels(cut, width, height, side)) for cut in cuts)
        down, right = first.shape
        columns, rows = ((np.arange(size) + 0.5) / size for size in (right, down))
        slope_y, slope_x = np.gradient(first)
        slope_y, slope_x = slope_y * down, slope_x * right
        slopes = np.stack([slope_x * columns, slope_x, slope_y * rows[:, None], slope_y])
        for _ in range(ROUNDS):
            moved, inside = _moved(second[..., None], place)
            apart = (moved[inside][..., 0] - first[inside]).ravel()
            spread = 2.5 * float(np.median(np.abs(apart))) + 1e-3
            weight = np.minimum(1, spread / np.maximum(np.abs(apart), 1e-6))  # Huber's
            some = slopes[:, inside[0], inside[1]].reshape(4, -1)
            normal = (some * weight) @ some.T
            normal += (1e-5 * np.trace(normal) + 1e-9) * np.eye(4)
            step = np.linalg.solve(normal, some @ (weight * apart))
            wide, left, high, top = step + start
            moves = [0, place[0] * left / wide, 0, place[2] * top / high]
            place = place / [wide, 1, high, 1] - moves
            if np.abs(place - start).max() > FURTHEST:
                return start
            if np.abs(step).max() * side < 0.02:
                break
    return place


def _normal(pixels: Pixels) -> Pixels:
    grey = gaussian_filter(pixels @ GREY, 1.0)
    return np.asarray((grey - grey.mean()) / (grey.std() + 1e-3))


def _moved(pixels: Pixels, place: Floats) -> tuple[Pixels, tuple[slice, slice]]:
    """The pixels at a place, [h, w, c], and the rows and columns that lie inside of them."""
    height, width, channels = pixels.shape
    wide, left, high, top = place.tolist()
    data = wide, 0, left * width, 0, high, top * height
    planes = [
        Image.fromarray(np.ascontiguousarray(pixels[..., channel])).transform(
            (width, height), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
        )
        for channel in range(channels)
    ]
    moved = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return moved, (_inside(height, high, top), _inside(width, wide, left))


def _inside(size: int, scale: float, start: float) -> slice:
    first = int(np.ceil(max(0.0, -start / scale) * size))
    return slice(first, max(int(min(1.0, (1 - start) / scale) * size), first + 1))
