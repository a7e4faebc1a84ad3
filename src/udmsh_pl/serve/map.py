"""A collection on a plane: pictures that are alike lie near each other.

t-SNE (van der Maaten and Hinton, 2008) of at most 2,000 pictures; every other picture is put
between the five of them that it is most like (*ours*): time hardly grows with the collection.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from udmsh_pl.search import ImageIndex
from udmsh_pl.search.searching import unit

LANDMARKS = 2000
PERPLEXITY = 30.0
STEPS = 500
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


def _tsne(points: Floats) -> Floats:
    """t-SNE that starts from the two leading principal components, small and equally wide."""
    from sklearn.manifold import TSNE  # slow to load

    centred = points - points.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    plane = centred @ axes[:, :-3:-1]
    # equal points would never part
    plane = plane + np.random.default_rng(0).normal(0, 1e-3, plane.shape)
    start = np.asarray(1e-2 * plane / np.maximum(plane.std(0), 1e-9), dtype=np.float32)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start, max_iter=STEPS, random_state=0)
    return np.asarray(tsne.fit_transform(points), dtype=np.float32)


def _square(plane: Floats) -> Floats:
    """The plane within the unit square; a flat one is stretched, at most twofold."""
    low, high = plane.min(0), plane.max(0)
    sides = high - low
    scaled = (plane - (low + high) / 2) / np.maximum(sides, max(float(sides.max()) / 2, 1e-9))
    return np.asarray(0.5 + 0.96 * scaled, dtype=np.float32)
