"""Opens strangers' pictures, in a child process alone (:mod:`udmsh_pl.safe.child`)."""

import io
import warnings

from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, formats, no_picture
from udmsh_pl.images.decode import decode as decode_rgb
from udmsh_pl.search.pictures import decode

QUALITY = 90
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of files

warnings.simplefilter("ignore")  # Pillow's, of tags that are broken
formats()  # loads Pillow's plugins before memory is limited

Facts = tuple[int, int]


def query(side: int, content: bytes) -> tuple[Facts, bytes]:
    """Width and height of a picture; its pixels, uint8 [3, side, side], and a thumbnail behind."""
    try:
        picture = decode(content, "this file", side)
    except InputError as error:
        raise _explained(str(error), content) from error
    return (picture.width, picture.height), picture.pixels.tobytes() + picture.thumbnail


def show(side: int, content: bytes) -> tuple[Facts, bytes]:
    """Width and height of a picture; it as JPEG without metadata, at most ``side`` pixels long."""
    try:
        image = decode_rgb(io.BytesIO(content))
    except UnreadablePicture as error:
        raise _explained(error.reason, content) from error
    size = image.size
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return size, stream.getvalue()


def _explained(problem: str, content: bytes) -> InputError:
    """The problem; of a HEIC that this Pillow does not know, its name and the extra."""
    is_heic = content[4:8] == b"ftyp" and content[8:12] in HEIC and b"avif" not in content[:64]
    missing = no_picture(".heic") if is_heic else ""
    return InputError(f"this is a HEIC picture ({missing})" if missing else problem)
