"""Pictures of a folder, each read once: its bytes' hash, the pixels that an encoder wants, and a
thumbnail.

Nothing here needs torch, so that a search starts in a fraction of a second.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import ENDINGS, UnreadablePicture, no_picture
from udmsh_pl.images.decode import decode as decode_rgb
from udmsh_pl.safe.untrusted import read_file
from udmsh_pl.search.segment import DIGEST_BYTES, FileFacts

THUMBNAIL_SIDE = 192  # pixels of the longer side
AHEAD = 4  # pictures a thread that may wait, decoded, for the encoder

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Args:
        pixels: uint8 [3, S, S], the whole picture squeezed to a square
        thumbnail: JPEG, the longer side at most 192 pixels
        width: of the picture as it is shown, in pixels
        height: of the picture as it is shown, in pixels
    """

    pixels: NDArray[np.uint8]
    thumbnail: bytes
    width: int
    height: int


def find_pictures(folder: Path) -> dict[str, FileFacts]:
    """Names (relative to ``folder``, forward slashes) and facts of all pictures under it, sorted.

    What is a picture is told by the ending; hidden files and folders are left out, and links to
    folders are not followed.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of your pictures")
    found: dict[str, FileFacts] = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(here, file)
            if path.suffix.lower() in ENDINGS and not file.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = facts_of(path)
    return dict(sorted(found.items()))


def facts_of(path: Path) -> FileFacts:
    """What shows that a file has changed."""
    return FileFacts.of(path.stat())


def digest_of(content: bytes) -> bytes:
    """BLAKE2b of a file's bytes, 16 bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def read_bytes(path: Path) -> bytes:
    """Content of a picture's file.

    Raises:
        InputError: the file cannot be read, is no regular file, or larger than ``UDMSH_MAX_BYTES``.
    """
    return read_file(path, "picture")


def decode(content: bytes, name: str, side: int) -> Picture:
    """Decode a picture for an encoder whose input is ``side`` pixels.

    Raises:
        InputError: it cannot be decoded; the message names it ``name``.
    """
    try:
        image = decode_rgb(io.BytesIO(content))
    except UnreadablePicture as error:
        ending = Path(name).suffix.lower()
        reason = (no_picture(ending) if ending in ENDINGS else "") or error.reason
        raise InputError(f"{name}: not a readable picture ({reason})") from error
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=75)
    return Picture(square(image, side), stream.getvalue(), *image.size)


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The whole RGB picture as uint8 [3, side, side], by Pillow, which starts faster than torch.

    :func:`udmsh_pl.images.transforms.eval_transform` resizes alike, bicubic and antialiased, but
    rounds otherwise between its two passes: each is within 1 of the exact value, so they differ by
    2 at most, and by more than 1 in fewer than one value of 10,000.
    """
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in order, a few ahead in threads: Pillow leaves the interpreter to
    others.
    """
    threads = os.cpu_count() or 1
    waiting: list[Future[R]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
