"""Many small pictures as one JPEG, for the map."""

import io

import numpy as np
from PIL import Image

from udmsh_pl.search import ImageIndex

TILE = 40  # pixels
MOST = 4096  # tiles
COLUMNS = 64
QUALITY = 72


def tiled(count: int) -> list[int]:
    """Rows that get a tile: all, or an even draw."""
    if count <= MOST:
        return list(range(count))
    rows: list[int] = np.sort(np.random.default_rng(0).permutation(count)[:MOST]).tolist()
    return rows


def sheet_of(index: ImageIndex, rows: list[int]) -> bytes:
    """Tiles of rows as JPEG, 64 beside each other, each the middle of its thumbnail."""
    height = max(1, -(-len(rows) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * TILE, height * TILE))
    for place, row in enumerate(rows):
        with Image.open(io.BytesIO(index.thumbnail(row)), formats=["JPEG"]) as image:
            image.draft("RGB", (2 * TILE, 2 * TILE))
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            box = (left, top, left + side, top + side)
            tile = image.convert("RGB").resize((TILE, TILE), Image.Resampling.BILINEAR, box)
        sheet.paste(tile, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
