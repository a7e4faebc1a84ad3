"""Pictures that may be each other turned or mirrored, by what no turn changes. *Ours*.

A backbone sees another picture when one is turned by 90 degrees, so its feature proposes no such
copy. The mean colours of an 8 x 8 grid, averaged over the eight ways to turn and mirror the grid,
stay as they are.
"""

import io
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

GRID = 8
NEAREST = 5  # candidates of a picture
# root mean square of the difference in grey values: of 400 pictures turned, made smaller and saved
# anew 2.3 at most, of no pair of 400 different ones as little as this
CLOSE = 5.0
_CORNER = [(down, right) for down in range(GRID // 2) for right in range(down + 1)]


def signature(thumbnail: bytes) -> NDArray[np.float64]:
    """Float [30] of a JPEG: colours of the ten cells that turns and mirrors leave different."""
    with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as image:
        image.draft("RGB", (8 * GRID, 8 * GRID))  # a quarter of the time
        small = image.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.float64)
    turned = sum(np.rot90(cells, turns) for turns in range(4))
    even = (turned + np.swapaxes(turned, 0, 1)) / 8
    return np.concatenate([even[place] for place in _CORNER])


def turned_candidates(thumbnails: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """Pairs of places that may be copies, each once: one is among the five nearest of the other."""
    signatures = np.array([signature(one) for one in thumbnails])
    if len(signatures) < 2:
        return
    reach = CLOSE * np.sqrt(signatures.shape[1])
    count = min(NEAREST + 1, len(signatures))  # each is its own nearest
    _, near = cKDTree(signatures).query(signatures, count, distance_upper_bound=reach)
    pairs = {
        (min(row, other), max(row, other))
        for row, others in enumerate(near.tolist())
        for other in others
        if other not in (row, len(signatures))  # the number of all stands for none
    }
    yield from sorted(pairs)
