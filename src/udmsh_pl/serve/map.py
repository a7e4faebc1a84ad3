"""A collection on a plane: pictures that are alike lie near each other.

t-SNE (van der Maaten and Hinton 2008, *stated*: perplexity, early exaggeration, gains, momentum) of
at most 2,000 pictures, with neighbours alone in the attraction; every other picture is put between
the five of them that it is most like (*ours*). So the time hardly grows with the collection.

The t-SNE is own code: scikit-learn's took 50 s for 39 s here, and 6 s more for its import.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from udmsh_pl.search import ImageIndex
from udmsh_pl.search.searching import unit

LANDMARKS = 2000
PERPLEXITY = 30.0
STEPS, EXAGGERATED = 400, 100
EXAGGERATION = 12.0
NEAREST = 5  # landmarks that another picture is put between
SHARP = 20.0  # weight of a landmark is exp(SHARP * cosine)
JITTER = 0.006  # of the plane's side, so that none lies under another
ROWS_AT_ONCE = 4096
TILE = 40  # pixels of a tile's side
COLUMNS = 64  # tiles beside each other
MOST_TILES = 4096
QUALITY = 72

Floats = NDArray[np.float32]


def positions(features: NDArray[np.int8], seed: int = 0, most: int = LANDMARKS) -> Floats:
    """Places in the unit square, float32 [N, 2], by the cosines of features int8 [N, d]."""
    count = len(features)
    generator = np.random.default_rng(seed)
    if count < 3:
        return (0.5 + 0.2 * np.arange(count)[:, None] * [1.0, 0.0]).astype(np.float32)
    picked = np.sort(generator.permutation(count)[:most])
    landmarks = unit(features[picked])
    placed = _square(_tsne(landmarks))
    if count == len(picked):
        return placed
    found = np.empty((count, 2), np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        cosines = unit(features[start : start + ROWS_AT_ONCE]) @ landmarks.T
        near = np.argpartition(-cosines, NEAREST, axis=1)[:, :NEAREST]
        weights = np.exp(SHARP * (np.take_along_axis(cosines, near, 1) - 1))
        weights /= weights.sum(1, keepdims=True)
        found[start : start + len(near)] = (placed[near] * weights[:, :, None]).sum(1)
    found += generator.normal(0, JITTER, found.shape).astype(np.float32)
    found[picked] = placed
    return found.clip(0, 1)


def tile_rows(count: int) -> list[int]:
    """Rows that get a tile: all, or an even draw."""
    if count <= MOST_TILES:
        return list(range(count))
    rows: list[int] = np.sort(np.random.default_rng(0).permutation(count)[:MOST_TILES]).tolist()
    return rows


def draw_tiles(index: ImageIndex, rows: list[int]) -> bytes:
    """Tiles of rows as JPEG, 64 beside each other, each the middle of its thumbnail."""
    height = max(1, -(-len(rows) // COLUMNS))
    drawn = Image.new("RGB", (COLUMNS * TILE, height * TILE))
    for place, row in enumerate(rows):
        with Image.open(io.BytesIO(index.thumbnail(row)), formats=["JPEG"]) as image:
            image.draft("RGB", (2 * TILE, 2 * TILE))
            middle = ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.BILINEAR)
        drawn.paste(middle, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _start(points: Floats) -> Floats:
    """The two leading principal components, small and equally wide."""
    centred = points - points.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    plane = centred @ axes[:, :-3:-1]
    # equal points would never part
    plane = plane + np.random.default_rng(0).normal(0, 1e-3, plane.shape)
    return np.asarray(1e-2 * plane / np.maximum(plane.std(0), 1e-9), dtype=np.float32)


def _attraction(points: Floats) -> Floats:
    """Symmetric affinities [n, n], their sum 1, of each point's nearest."""
    count = len(points)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    nearest = min(count - 1, max(2, int(3 * perplexity)))
    cosines = points @ points.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
    far = 2 - 2 * np.take_along_axis(cosines, order, 1)
    far -= far.min(1, keepdims=True)
    low, high = np.full((count, 1), 1e-3), np.full((count, 1), 1e6)
    for _ in range(40):  # the width at which the entropy is that of the perplexity
        width = np.sqrt(low * high)
        weights = np.exp(-far * width)
        share = weights / weights.sum(1, keepdims=True)
        entropy = -(share * np.log(share + 1e-12)).sum(1, keepdims=True)
        wide = entropy > np.log(max(perplexity, 1.01))
        low, high = np.where(wide, width, low), np.where(wide, high, width)
    affinities = np.zeros((count, count), np.float32)
    np.put_along_axis(affinities, order, share.astype(np.float32), 1)
    affinities += affinities.T.copy()
    return np.asarray(affinities / affinities.sum(), dtype=np.float32)


def _tsne(points: Floats) -> Floats:
    affinities, plane, count = _attraction(points), _start(points), len(points)
    gains, speed = np.ones_like(plane), np.zeros_like(plane)
    rate = max(count / EXAGGERATION, 50.0)
    near, force = np.empty((2, count, count), np.float32)
    for step in range(STEPS):
        early = step < EXAGGERATED
        lengths = (plane**2).sum(1)
        np.matmul(plane, plane.T, out=near)
        near *= -2
        near += lengths[:, None] + 1
        near += lengths
        np.reciprocal(near, out=near)
        np.fill_diagonal(near, 0)
        np.multiply(affinities, EXAGGERATION if early else 1, out=force)
        total = near.sum()
        force -= near / total
        force *= near
        slope = 4 * (force.sum(1)[:, None] * plane - force @ plane)
        same = np.sign(slope) == np.sign(speed)
        gains = np.maximum(np.where(same, gains * 0.8, gains + 0.2), 0.01).astype(np.float32)
        speed = np.float32(0.5 if early else 0.8) * speed - np.float32(rate) * gains * slope
        plane = plane + speed
        plane -= plane.mean(0)
    return plane


def _square(plane: Floats) -> Floats:
    """The plane within the unit square; a flat one is stretched, at most twofold."""
    low, high = plane.min(0), plane.max(0)
    sides = high - low
    scaled = (plane - (low + high) / 2) / np.maximum(sides, max(float(sides.max()) / 2, 1e-9))
    return np.asarray(0.5 + 0.96 * scaled, dtype=np.float32)
