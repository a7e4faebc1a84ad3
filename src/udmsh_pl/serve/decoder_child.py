"""Opens strangers' pictures, in a child process alone (:mod:`udmsh_pl.safe.child`)."""

import io
import warnings

from PIL import Image

from udmsh_pl.images.decode import decode as decode_rgb
from udmsh_pl.images.decode import formats
from udmsh_pl.search.pictures import decode

QUALITY = 90

warnings.simplefilter("ignore")  # Pillow's, of tags that are broken
formats()  # loads Pillow's plugins before memory is limited

Facts = tuple[int, int]


def query(side: int, content: bytes) -> tuple[Facts, bytes]:
    """Width and height of a picture; its pixels, uint8 [3, side, side], and a thumbnail behind."""
    picture = decode(content, "this file", side)
    return (picture.width, picture.height), picture.pixels.tobytes() + picture.thumbnail


def show(side: int, content: bytes) -> tuple[Facts, bytes]:
    """Width and height of a picture; it as JPEG without metadata, at most ``side`` pixels long."""
    image = decode_rgb(content)
    size = image.size
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return size, stream.getvalue()
