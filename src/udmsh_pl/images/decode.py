"""Every picture of the package is opened here: an allow-list of formats, limits, and one rule for
each kind of pixel.
"""

import importlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import file_size, limit, over, reason_of

# Pillow knows more: EPS starts Ghostscript, others are rare and little tested against strangers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
ENDINGS = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
_EXTRAS = {"HEIF": "needs the extra: pip install 'udmsh-pl[heif]'"}
_PLUGINS = {"WEBP": "WebP", "JPEG2000": "Jpeg2K"}  # Pillow's names of their modules
_MOST_SCANS = 64  # of a JPEG; each goes over the whole picture, and no encoder writes more
_STRIP = 1 << 21  # pixels that are converted at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes a picture with this EXIF orientation upright


class UnreadablePicture(InputError):
    """A picture that cannot be decoded.

    Attributes:
        reason: why, in a few words.
        lasting: whether the file itself is at fault, and not a full memory or a disk that is away.
        absent: whether there is no such file.
    """

    reason: str = ""
    lasting: bool = True
    absent: bool = False

    def __init__(self, message: str = "") -> None:
        # from a worker process it comes with the traceback before it
        super().__init__(message.rsplit("UnreadablePicture: ", 1)[-1].strip())


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """The formats of the allow-list that this Pillow reads, and HEIF with the extra
    ``udmsh-pl[heif]``.
    """
    for name in FORMATS:  # Image.init() would load forty more
        with suppress(ImportError):
            importlib.import_module(f"PIL.{_PLUGINS.get(name, name.title())}ImagePlugin")
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def no_picture(ending: str) -> str:
    """Why a file with this ending (``.heic``, lower case) is not read, or nothing if it is."""
    for name, endings in _ENDINGS.items():
        if ending in endings:
            missing = _EXTRAS.get(name, "this Pillow was built without it")
            return "" if name in formats() else f"{name}: {missing}"
    if ending in (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mpg", ".mpeg", ".mts"):
        return "a video"
    return f"no picture ending ({ending})" if ending else "no ending"


def decode(source: Path | BinaryIO, upright: bool = True) -> Image.Image:
    """Decode the first picture of a file to RGB.

    Args:
        source: path, or an open binary stream (an upload).
        upright: turn and mirror it as its EXIF orientation says, as every viewer does. Without,
            pixels come as they are stored; but Pillow turns TIFF always.

    Raises:
        UnreadablePicture: no such file, another format, damaged, or larger than the limits
            ``UDMSH_MAX_PIXELS`` and ``UDMSH_MAX_BYTES``; the message names the file.
    """
    try:
        if isinstance(source, Path) and not file_size(source, limit("BYTES")):
            raise ValueError("it is empty: 0 bytes")
        if limit("PIXELS") > (Image.MAX_IMAGE_PIXELS or 0):
            Image.MAX_IMAGE_PIXELS = limit("PIXELS")  # who raised ours must not meet Pillow's own
        with Image.open(source, formats=formats()) as image:
            _check_size(image)
            image.load()
            rgb = to_rgb(image)
            turn = _TURNS.get(_orientation(image)) if upright else None
            return rgb if turn is None else rgb.transpose(turn)
    except Exception as error:  # decoders of external bytes raise nearly every kind there is
        name = str(source) if isinstance(source, Path) else "this picture"
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(formats())}" if unknown else reason_of(error)
        if isinstance(error, Image.DecompressionBombError):
            reason = over("PIXELS")
        failure = UnreadablePicture(f"{name}: not a readable image ({reason})")
        failure.reason = reason
        failure.absent = isinstance(error, FileNotFoundError)
        system = isinstance(error, OSError) and error.errno is not None
        failure.lasting = not system and not isinstance(error, MemoryError)
        raise failure from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any Pillow mode to RGB.

    What is transparent shows white, as on a page: Pillow would show the colour that lies hidden
    there, most often black. Grey of more than 8 bits is scaled, where Pillow would clip it to
    white or black (*ours*): 16-bit grey is divided by 256; for 32-bit integers and floats the
    values of the picture decide:

    - floats within 0..1 are multiplied by 255;
    - values within 0..255 stay as they are, those within 0..65535 are divided by 256;
    - else the least becomes 0 and the largest 255.

    Raises:
        ValueError: a mode that has no way to RGB (LAB), or a value that is not finite.
    """
    if image.mode.startswith("I;16"):
        return _grey(image, 0, 1 / 256)
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # 16 bits at most
        return _grey(image, 0, 1 / 256)
    if image.mode in ("I", "F"):
        return _grey(image, *_range(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        page = Image.new("RGB", image.size)
        for box in _strips(image):
            strip = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", strip.size, "white")
            page.paste(Image.alpha_composite(white, strip).convert("RGB"), box[:2])
        return page
    return image.convert("RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > limit("PIXELS"):
        raise ValueError(f"{width} x {height}, {over('PIXELS')}")
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        if int(tags.get(322, 1)) * int(tags.get(323, 1)) > limit("PIXELS"):
            raise ValueError(f"tiles of {over('PIXELS')}")
    if "progressive" in image.info or "progression" in image.info:
        stream: Any = image.fp  # type: ignore[attr-defined]
        place = stream.tell()
        stream.seek(0)
        scans = stream.read().count(b"\xff\xda")
        stream.seek(place)
        if scans > _MOST_SCANS:
            raise ValueError(f"{scans} scans, more than {_MOST_SCANS}")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # a damaged tag block does not make a picture unreadable
        return 1
    return value if isinstance(value, int) else 1


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    width, height = image.size
    rows = max(1, _STRIP // max(1, width))
    for top in range(0, height, rows):
        yield 0, top, width, min(height, top + rows)


def _grey(image: Image.Image, least: float, scale: float) -> Image.Image:
    """``(value - least) * scale`` of each pixel, rounded down, as RGB."""
    grey: NDArray[np.uint8] = np.empty(image.size[::-1], dtype=np.uint8)
    for box in _strips(image):
        values = np.asarray(image.crop(box)).astype(np.float64)
        scaled = (values - least) * scale + 1e-6  # what is 255 but for the last digit is 255
        grey[box[1] : box[3]] = scaled.clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """Least value and factor for :func:`_grey`."""
    low, high = np.inf, -np.inf
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low >= 0 and high <= 1 and image.mode == "F":
        return 0, 255
    if low >= 0 and high <= 255:
        return 0, 1
    if low >= 0 and high <= 65535:
        return 0, 1 / 256
    return low, 255 / (high - low) if high > low else 0
