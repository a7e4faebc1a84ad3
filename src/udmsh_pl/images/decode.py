"""Every picture is decoded here, to upright sRGB: an allow-list, limits, one rule for each kind."""

import importlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

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
    "RAW": (
        ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf",
        ".rw2", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".mrw", ".x3f", ".raw",
    ),
}  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_VIDEOS = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mpg", ".mpeg", ".mts", ".m2ts",
    ".wmv",
)  # fmt: skip
_KINDS = (
    "give a path, an open file or its bytes, a PIL image, a uint8 array [H, W, 3] or a uint8 "
    "tensor [3, H, W]"
)
_EXTRAS = {
    "HEIF": "needs the extra: pip install 'udmsh-pl[heif]'",
    "RAW": "needs the extra: pip install 'udmsh-pl[raw]'",
}
_TIFF = (b"II*\0", b"MM\0*")
_RAW = (b"IIRO", b"IIRS", b"IIU\0", b"FUJIFILM", b"\0MRM", b"FOVb")  # Olympus, Panasonic, Fuji, ...
_DNG_VERSION, _SUB_IFDS, _MAKE = 50706, 330, 271  # tags of a TIFF file
_PLUGINS = {"WEBP": "WebP", "JPEG2000": "Jpeg2K"}  # Pillow's names of their modules
_MOST_SCANS = 64  # of a JPEG; each goes over the whole picture, and no encoder writes more
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # of a JPEG, but in its pixels
_SCAN, _END_OF_IMAGE, _WITHOUT_LENGTH = b"\xda", b"\xd9", (b"\x01", b"\xd8")
_MOST_PROFILE = 4 << 20  # bytes of a colour profile
_STRIP = 1 << 21  # pixels that are converted at a time
_TO = Image.Transpose
# what makes a picture with EXIF's orientation 2 to 8 upright
_TURNS = {
    2: _TO.FLIP_LEFT_RIGHT, 3: _TO.ROTATE_180, 4: _TO.FLIP_TOP_BOTTOM, 5: _TO.TRANSPOSE,
    6: _TO.ROTATE_270, 7: _TO.TRANSVERSE, 8: _TO.ROTATE_90,
}  # fmt: skip
_FLIPS = {3: _TO.ROTATE_180, 5: _TO.ROTATE_90, 6: _TO.ROTATE_270}  # the same for LibRaw's numbers


class UnreadablePicture(InputError):
    """A picture that cannot be decoded."""

    reason: str = ""  # in a few words
    lasting: bool = True  # the file itself is at fault, not a full memory or a disk that is away
    absent: bool = False  # there is no such file

    def __init__(self, message: str = "") -> None:
        # from a worker process it comes with the traceback before it
        super().__init__(message.rsplit("UnreadablePicture: ", 1)[-1].strip())


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Formats of the allow-list that this Pillow reads, HEIF with the extra ``udmsh-pl[heif]``."""
    for name in FORMATS:  # Image.init() would load forty more
        with suppress(ImportError):
            importlib.import_module(f"PIL.{_PLUGINS.get(name, name.title())}ImagePlugin")
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@lru_cache(maxsize=1)
def reads_raw() -> bool:
    """Whether the extra ``udmsh-pl[raw]`` is installed."""
    return find_spec("rawpy") is not None


def no_picture(ending: str) -> str:
    """Why a file with this ending (``.heic``, lower case) is not read, or nothing if it is."""
    for name, endings in _ENDINGS.items():
        if ending in endings:
            missing = _EXTRAS.get(name, "this Pillow was built without it")
            there = reads_raw() if name == "RAW" else name in formats()
            return "" if there else f"{name}: {missing}"
    if ending in _VIDEOS:
        return "a video"
    return f"no picture ending ({ending})" if ending else "no ending"


def decode(source: Any, upright: bool = True, at_least: int | None = None) -> Image.Image:
    """Decode the first picture of a source to RGB; all kinds of source give the same pixels.

    Args:
        source: a path, the bytes of a file, an open binary file, a PIL image, a uint8 array [H, W]
            or [H, W, 3], or a uint8 tensor [3, H, W]
        upright: show the picture as viewers do: turned and mirrored by its EXIF orientation, its
            colours converted from its ICC profile to sRGB. Without, pixels come as they are stored
            (but Pillow turns TIFF always), as in the code behind published numbers (NUS-WIDE,
            MIRFLICKR, COCO)
        at_least: let libjpeg decode a JPEG at 1/2, 1/4 or 1/8 of its size where both sides keep
            this many pixels, which is several times faster; None keeps the full size

    Returns:
        An RGB image without metadata; ``info["size"]`` holds width and height of the whole picture
        as it is shown. A JPEG beyond the limit ``UDMSH_MAX_PIXELS`` is decoded smaller in any case,
        so that the limit is on memory; a progressive one, which libjpeg keeps whole, is refused.

    Raises:
        UnreadablePicture: no such file, another format, damaged, or larger than
            ``UDMSH_MAX_PIXELS`` and ``UDMSH_MAX_BYTES`` allow; the message names the file.
        InputError: another kind of source.
    """
    source = Path(source) if isinstance(source, str) else source
    if hasattr(source, "shape"):
        source = _of_array(source)
    if not isinstance(source, Path | bytes | Image.Image) and not hasattr(source, "read"):
        raise InputError(f"{type(source).__name__} is no picture; {_KINDS}")
    try:
        if isinstance(source, Image.Image):
            return _finished(source, source.size, upright)
        with _stream(source) as stream:
            try:
                return _decoded(stream, upright, at_least)
            except ValueError as error:
                if "MAX_TEXT" not in str(error):  # Pillow's limit on text beside a PNG's picture
                    raise
                stream.seek(0)
                return _decoded(io.BytesIO(_without_text(stream.read())), upright, at_least)
    except Exception as error:  # decoders of external bytes raise nearly every kind there is
        name = str(source) if isinstance(source, Path) else "this picture"
        bomb = isinstance(error, Image.DecompressionBombError)
        reason = over("PIXELS") if bomb else reason_of(error)
        failure = UnreadablePicture(f"{name}: not a readable image ({reason})")
        failure.reason, failure.absent = reason, isinstance(error, FileNotFoundError)
        system = isinstance(error, OSError) and error.errno is not None
        failure.lasting = not system and not isinstance(error, MemoryError)
        raise failure from error


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The whole RGB picture as uint8 [3, side, side]: bicubic, antialiased.

    Nothing is cropped: what lies at the rim of a picture carries labels too (*ours*; the paper does
    not say). Pillow starts faster than torch.
    """
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


@contextmanager
def _stream(source: Any) -> Iterator[BinaryIO]:
    """The source's bytes from their beginning; a stream of the caller's stays open."""
    if isinstance(source, Path):
        path = source.expanduser()
        if not file_size(path, limit("BYTES")):
            raise ValueError("it is empty: 0 bytes")
        with path.open("rb") as stream:
            yield stream
    elif not isinstance(source, bytes) and source.seekable():
        source.seek(0)
        yield source
    else:
        content = source if isinstance(source, bytes) else source.read(limit("BYTES") + 1)
        if len(content) > limit("BYTES"):
            raise ValueError(over("BYTES"))
        yield io.BytesIO(content)


def _decoded(stream: BinaryIO, upright: bool, at_least: int | None) -> Image.Image:
    head = stream.read(64)
    stream.seek(0)
    if head.startswith(_RAW) or head[4:12] == b"ftypcrx ":
        return _preview(stream, upright, at_least)
    if head.startswith(b"\xff\xd8\xff"):  # the first frame alone of a file with several (MPO)
        image: Image.Image = JpegImageFile(stream)
        whole = image.size
        _reduce(image, at_least)
    else:
        if limit("PIXELS") > (Image.MAX_IMAGE_PIXELS or 0):
            Image.MAX_IMAGE_PIXELS = limit("PIXELS")  # who raised ours must not meet Pillow's own
        try:
            image = Image.open(stream, formats=formats())
        except UnidentifiedImageError as error:
            if head.startswith(_TIFF) and reads_raw():
                return _preview(stream, upright, at_least)
            heic = head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head
            if heic and "HEIF" not in formats():
                raise UnidentifiedImageError(f"it is HEIC, which {_EXTRAS['HEIF']}") from error
            raise UnidentifiedImageError(f"it is none of {', '.join(formats())}") from error
        whole = image.size
        if head.startswith(_TIFF):  # a camera's first picture is a small preview
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            camera = int(tags.get(254, 0)) & 1 and _SUB_IFDS in tags and _MAKE in tags
            if camera or head[8:10] == b"CR" or _DNG_VERSION in tags:
                return _preview(stream, upright, at_least)
    with image:
        _check_size(image, whole)
        image.load()
        return _finished(image, whole, upright)


def _preview(stream: BinaryIO, upright: bool, at_least: int | None) -> Image.Image:
    """The largest preview in a camera's RAW file; its size is that of the RAW picture."""
    if not reads_raw():
        raise UnidentifiedImageError(f"it is RAW, which {_EXTRAS['RAW']}")
    rawpy = importlib.import_module("rawpy")
    stream.seek(0)
    try:
        with rawpy.imread(io.BytesIO(stream.read())) as raw:
            size, flip, found = raw.sizes, raw.sizes.flip, raw.extract_thumb()
    except rawpy.LibRawNoThumbnailError as error:
        raise ValueError("this RAW file holds no preview") from error
    if found.format == rawpy.ThumbFormat.JPEG:  # LibRaw writes the orientation into it
        image = _decoded(io.BytesIO(found.data), upright, at_least)
    else:
        image = Image.fromarray(found.data)
        image = _finished(image, image.size, upright)
        if upright and flip in _FLIPS:
            image = image.transpose(_FLIPS[flip])
    width, height = size.width, size.height
    swapped = (image.width < image.height) != (width < height)
    image.info = {"size": (height, width) if swapped else (width, height)}
    return image


def _finished(image: Image.Image, whole: tuple[int, int], upright: bool) -> Image.Image:
    """A loaded image as RGB: upright, in sRGB, without metadata."""
    turn = _TURNS.get(_orientation(image)) if upright else None
    rgb = _to_srgb(image) if upright else to_rgb(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    swapped = (rgb.width < rgb.height) != (whole[0] < whole[1])
    rgb.info = {"size": whole[::-1] if swapped else whole}
    return rgb


def _of_array(source: Any) -> Image.Image:
    array = source.detach().cpu().numpy() if hasattr(source, "detach") else source
    if hasattr(source, "detach") and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if getattr(array, "dtype", None) != np.uint8 or array.shape[2:] not in ((), (3,)):
        kind = f"{type(source).__name__} {getattr(source, 'dtype', '')} {list(source.shape)}"
        raise InputError(f"{kind} is no picture; {_KINDS}")
    return Image.fromarray(np.ascontiguousarray(array))


def _reduce(image: Image.Image, at_least: int | None) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8, by ``at_least`` or for the limit on pixels."""
    (width, height), most = image.size, limit("PIXELS")
    wanted = min(image.size) // at_least if at_least else 1
    fitting = [one for one in (1, 2, 4, 8) if -(-width // one) * -(-height // one) <= most]
    needed = fitting[0] if fitting and "progressive" not in image.info else 1
    scale = max(needed, *(one for one in (1, 2, 4, 8) if one == 1 or one <= wanted))
    if scale > 1:
        image.draft(None, (width // scale, height // scale))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB, converted from the picture's ICC profile where it has one that can be used."""
    profile, mode = image.info.get("icc_profile"), image.mode
    deep = mode.startswith("I") or mode == "F"
    usable = isinstance(profile, bytes) and len(profile) <= _MOST_PROFILE and not deep
    direct = mode in ("L", "CMYK") and "transparency" not in image.info
    transform = _transform(profile, mode if direct else "RGB") if usable else None
    if transform is not None and direct:
        return transform.apply(image)  # type: ignore[no-any-return]
    rgb = to_rgb(image)
    return rgb if transform is None else transform.apply_in_place(rgb)


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """From a profile to sRGB; None where it is sRGB, for another kind of pixels, or damaged."""
    from PIL import ImageCms  # few pictures need it

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space, name = own.profile.xcolor_space.strip(), own.profile.profile_description or ""
        if space != ("GRAY" if mode == "L" else mode) or "sRGB" in name:
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # no profile, or a Pillow without LittleCMS: the picture is used as it is
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any Pillow mode to RGB.

    What is transparent shows white, as on a page: Pillow would show the colour hidden there, most
    often black. Grey of more than 8 bits is scaled, where Pillow would clip it (*ours*): 16-bit
    grey is divided by 256; for 32-bit integers and floats the values of the picture decide:

    - floats within 0..1 are multiplied by 255;
    - values within 0..255 stay as they are, those within 0..65535 are divided by 256;
    - else the least becomes 0 and the largest 255.

    Raises ``ValueError``: a mode that has no way to RGB (LAB), or a value that is not finite.
    """
    sixteen = image.mode == "I" and image.format in ("PPM", "PNG")  # 16 bits at most
    if image.mode.startswith("I;16") or sixteen:
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


def _check_size(image: Image.Image, whole: tuple[int, int]) -> None:
    width, height = image.size
    if width * height > limit("PIXELS"):
        raise ValueError(f"{whole[0]} x {whole[1]}, {over('PIXELS')}")
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        if int(tags.get(322, 1)) * int(tags.get(323, 1)) > limit("PIXELS"):
            raise ValueError(f"tiles of {over('PIXELS')}")
    if "progressive" in image.info or "progression" in image.info:
        stream: Any = image.fp  # type: ignore[attr-defined]
        place = stream.tell()
        stream.seek(0)
        scans = _scans(stream.read())
        stream.seek(place)
        if scans > _MOST_SCANS:
            raise ValueError(f"{scans} scans, more than {_MOST_SCANS}")


def _scans(content: bytes) -> int:
    """Scans of a JPEG up to its first end of image: a video or other pictures may follow."""
    scans, place = 0, 2
    while scans <= _MOST_SCANS and (found := _MARKER.search(content, place)):
        marker, place = found[1], found.end()
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _SCAN
        if marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(content[place : place + 2], "big")
    return scans


def _without_text(content: bytes) -> bytes:
    """A PNG file without its text and its colour profile, which may be larger than Pillow reads."""
    kept, place = [content[:8]], 8
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


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
