"""Whether two files show the same picture in every part. *Ours*.

Two scans of one form with other numbers have thumbnails like copies. So the files themselves are
laid on each other, their levels are made equal, and the largest difference that is left *anywhere*
decides: what compression leaves is small beside the contrast around it, another digit is not.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from udmsh_pl.search.overlap import TURNS, Box, Placement

SIDE = 512  # pixels of the longer side that files are compared at
LEVELS = (80, 160, 320)  # pixels of that side at which the place of a cut is refined
ROUNDS = 10  # of the refinement, at each
SMOOTH = 0.7  # pixels: deviation of the blur that removes the noise of single pixels
WINDOW = 3.0  # pixels: deviation of the window that a difference is measured in
# Grey values that compression leaves where there is no contrast, and the share of the contrast
# around. Of copies 98 of 100 then have at most half of it, of pictures with another number 1.2.
NOISE, SHARE = 8.0, 0.3
FITTED = 4096  # pixels that levels are fitted to
CURVE, FEW = 64, 4  # points of a curve of levels; pixels of its ends
EDGE = 1  # window at the edges, of two pixels, that is not compared
LEAST_GAIN = 0.33  # a picture whose contrast must shrink by more says nothing of the other
FURTHEST = 0.3  # of a side that the refinement may move a picture; beyond, it has gone astray
START = np.array([1.0, 0.0, 1.0, 0.0])  # a picture that has not moved
UNMOVED = 0.1  # pixels
HOPELESS = 6.0  # a difference that no curve of levels explains
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Pixels = NDArray[np.float32]  # [3, h, w], or grey [h, w]
Floats = NDArray[np.float64]


def largest_difference(one: Image.Image, two: Image.Image, placement: Placement) -> float:
    """The largest local difference of two RGB pictures where they show the same, in units of what
    compression leaves: copies have less than 1.
    """
    turn = TURNS[placement.turn]
    upright = two if turn is None else two.transpose(turn)
    cuts = [_cut(one, placement.one), _cut(upright, placement.two)]
    width, height = (min(cut.size[axis] for cut in cuts) for axis in range(2))
    first, second = (_pixels(cut, width, height) for cut in cuts)
    grey = _grey(first)
    least = _apart(grey, grey, _grey(second))  # most copies have kept their levels
    if least >= 1:
        least = _difference(first, second, _mixed)
    if least >= 1:
        place = _place(_grey(first), _grey(second))
        if np.abs(place - START).max() * max(first.shape) > UNMOVED:
            moved, (rows, columns) = _moved(second, place)
            first, second = first[:, rows, columns], moved[:, rows, columns]
            least = min(least, _difference(first, second, _mixed))
    if 1 <= least < HOPELESS:
        least = min(least, _difference(first, second, _curved))
    return least


def _cut(image: Image.Image, box: Box) -> Image.Image:
    pairs = zip(box, 2 * image.size, strict=True)
    left, top, right, bottom = (round(share * size) for share, size in pairs)
    return image.crop((left, top, right, bottom))


def _pixels(image: Image.Image, width: int, height: int) -> Pixels:
    """Float32 [3, h, w] of that shape, but the longer side at most :data:`SIDE`."""
    share = min(1.0, SIDE / max(width, height))
    size = max(round(width * share), 8), max(round(height * share), 8)
    resized = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1))


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(np.tensordot(GREY, pixels, 1))


def _difference(one: Pixels, two: Pixels, levels: Callable[[Pixels, Pixels], Pixels]) -> float:
    """The smaller of both ways: one picture may have lost colours or lights that the other has."""
    least = float("inf")
    for source, goal in ((one, two), (two, one)):
        least = min(least, _apart(levels(goal, source), _grey(source), _grey(goal)))
        if least < 1:
            break
    return least


def _apart(expected: Pixels, source: Pixels, goal: Pixels) -> float:
    """The largest local difference of grey ``goal`` and ``expected`` (``source`` at its levels),
    [h, w].
    """
    if min(goal.shape) < 4 * EDGE + 2 or expected.std() < LEAST_GAIN * source.std():
        return float("inf")
    left = _window(gaussian_filter(expected - goal, SMOOTH) ** 2)
    contrast = np.minimum(*(_window(grey**2) - _window(grey) ** 2 for grey in (expected, goal)))
    limit = NOISE + SHARE * np.sqrt(np.maximum(contrast, 0))
    return float((np.sqrt(left) / limit)[EDGE:-EDGE, EDGE:-EDGE].max())


def _window(values: Pixels) -> Pixels:
    """Means around every second pixel, [h // 2, w // 2]."""
    rows = values[:-1:2] + values[1::2]
    halves = (rows[:, :-1:2] + rows[:, 1::2]) / 4
    down, right = (_blur(size) for size in halves.shape)
    return np.asarray(down @ halves @ right.T)


@lru_cache(64)
def _blur(size: int) -> Pixels:
    """The window along a line of ``size`` means, as a matrix: products take less time than filters
    do, most of all of small pictures.
    """
    return np.asarray(gaussian_filter1d(np.eye(size, dtype=np.float32), WINDOW / 2, axis=0))


def _some(pixels: Pixels) -> Pixels:
    """Float32 [n, 3], about FITTED pixels of a picture."""
    step = max(1, math.isqrt(pixels[0].size // FITTED))
    return pixels[:, ::step, ::step].reshape(3, -1).T


def _mixed(goal: Pixels, source: Pixels) -> Pixels:
    """Grey [h, w] of ``source`` with the brightness, contrast and colours of ``goal``: each channel
    is a clipped sum of the three and a constant, fitted to the nine tenths that agree best.
    """
    known, wanted = _some(source), _some(goal).T[:, :, None]  # [n, 3], [3, n, 1]
    own = known.T[:, :, None]
    clipped = ((wanted > 251) & (own < 249)) | ((wanted < 4) & (own > 6))
    used = ~clipped  # [3, n, 1]
    for _ in range(3):
        used |= ~used.any(1, keepdims=True)
        count = used.sum(1, keepdims=True)
        centre, level = ((used * one).sum(1, keepdims=True) / count for one in (known, wanted))
        some = used * (known - centre)  # [3, n, 3]
        goals = some.swapaxes(1, 2) @ (wanted - level)
        goals += 20 * count * np.eye(3)[:, :, None]  # a ridge towards the channel as it is
        normal = some.swapaxes(1, 2) @ some + 20 * count * np.eye(3)
        gains = np.linalg.solve(normal, goals)  # [3, 3, 1]
        apart = np.abs((known - centre) @ gains + level - wanted)
        limits = np.maximum(np.quantile(apart, 0.9, axis=1, keepdims=True), 2.0)
        used = ~clipped & (apart <= limits)
    levels = (level - centre @ gains).astype(np.float32)
    made = np.tensordot(gains[..., 0].astype(np.float32), source, 1) + levels
    return _grey(np.clip(made, 0, 255, out=made))


def _curved(goal: Pixels, source: Pixels) -> Pixels:
    """The same by a curve of each channel, which clipped lights and other gammas are: the median of
    ``goal`` where ``source`` is as bright.
    """
    known, wanted = _some(source), _some(goal)
    made = np.empty_like(source)
    for channel in range(3):
        order = np.argsort(known[:, channel], kind="stable")
        # parts are larger than the ends, which are the darkest and the lightest: curves rise
        parts = np.array_split(order, max(1, min(CURVE, len(order) // (2 * FEW))))
        parts = [order[:FEW], *parts, order[-FEW:]]
        at, to = (
            np.array([np.median(values[part, channel]) for part in parts])
            for values in (known, wanted)
        )
        made[channel] = np.interp(source[channel], at, to)
    return _grey(made)


def _place(one: Pixels, two: Pixels) -> Floats:
    """Scale and shift of both sides of the second one, in shares: Lucas and Kanade (1981)."""
    place = START
    for side in LEVELS[: 1 + sum(level < max(one.shape) for level in LEVELS)]:
        first, second = (_normal(grey, side) for grey in (one, two))
        down, right = first.shape
        columns, rows = ((np.arange(size) + 0.5) / size for size in (right, down))
        slope_y, slope_x = np.gradient(first)
        slope_y, slope_x = slope_y * down, slope_x * right
        slopes = np.stack([slope_x * columns, slope_x, slope_y * rows[:, None], slope_y])
        for _ in range(ROUNDS):
            (moved,), inside = _moved(second[None], place)
            apart = (moved[inside] - first[inside]).ravel()
            spread = 2.5 * float(np.median(np.abs(apart))) + 0.1
            weight = np.minimum(1, spread / np.maximum(np.abs(apart), 1e-6))  # Huber's
            some = slopes[:, inside[0], inside[1]].reshape(4, -1)
            normal = (some * weight) @ some.T
            normal += (1e-5 * np.trace(normal) + 1e-9) * np.eye(4)
            step = np.linalg.solve(normal, some @ (weight * apart))
            wide, left, high, top = step + START
            moves = [0, place[0] * left / wide, 0, place[2] * top / high]
            place = place / [wide, 1, high, 1] - moves
            if np.abs(place - START).max() > FURTHEST:
                return START
            if np.abs(step).max() * side < 0.02:
                break
    return place


def _normal(grey: Pixels, side: int) -> Pixels:
    share = min(1.0, side / max(grey.shape))
    size = [max(round(pixels * share), 8) for pixels in grey.shape[::-1]]
    small = Image.fromarray(grey).resize((size[0], size[1]), Image.Resampling.BOX)
    smooth = gaussian_filter(np.asarray(small), 1.0)
    return np.asarray((smooth - smooth.mean()) / (smooth.std() + 1e-3))


def _moved(pixels: Pixels, place: Floats) -> tuple[Pixels, tuple[slice, slice]]:
    """The pixels at a place, [c, h, w], and the rows and columns that lie inside of them."""
    _, height, width = pixels.shape
    wide, left, high, top = place.tolist()
    data = wide, 0, left * width, 0, high, top * height
    how: Any = (width, height), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    planes = [np.asarray(Image.fromarray(plane).transform(*how)) for plane in pixels]
    return np.stack(planes), (_inside(height, high, top), _inside(width, wide, left))


def _inside(size: int, scale: float, start: float) -> slice:
    first = int(np.ceil(max(0.0, -start / scale) * size))
    return slice(first, max(int(min(1.0, (1 - start) / scale) * size), first + 1))
