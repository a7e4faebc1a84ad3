"""The one place where search opens strangers' pictures: an allow-list of formats and a limit on
pixels.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from udmsh_pl.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO", "PPM", "HEIF")
ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .mpo .ppm .pgm .heic .heif".split()
)
MAX_PIXELS = 200_000_000
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)


def open_rgb(content: bytes, name: str, least: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture to RGB, the right way up; the first frame of an animated one.

    Args:
        content: bytes of the file
        name: what errors call it
        least: pixels that the shorter side needs at least: a JPEG much larger is decoded at a half,
            a quarter or an eighth of its size, which is up to eight times faster

    Returns:
        The image, and (width, height) of the whole picture as it is shown.

    Raises:
        InputError: of no known format, cut, or larger than 200 million pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[f for f in FORMATS if f in _known()]) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{name}: {width} x {height} pixels are more than {MAX_PIXELS:,}; make it smaller"
                )
            image.draft("RGB", (2 * least, 2 * least))
            turned = ImageOps.exif_transpose(image)
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            return _rgb(turned), (width, height)
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else str(error) or type(error).__name__
        raise InputError(f"{name}: not a readable picture ({reason})") from error


def _known() -> list[str]:
    Image.init()
    return Image.ID


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
