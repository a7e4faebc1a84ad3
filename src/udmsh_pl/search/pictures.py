"""Pictures of a folder become rows of an index: each read once, compared by content with those that
are known, decoded to pixels and a thumbnail, and encoded.

Nothing here needs torch, so that a search starts in a fraction of a second.
"""

import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.images.ahead import ahead, batched, in_order
from udmsh_pl.images.decode import UnreadablePicture, square
from udmsh_pl.images.decode import decode as decode_rgb
from udmsh_pl.images.walk import Found, walk
from udmsh_pl.safe.profile import clock, wait_for
from udmsh_pl.safe.untrusted import read_file
from udmsh_pl.search.encoder import BATCH, HashEncoder
from udmsh_pl.search.segment import DIGEST_BYTES, FILES, FileFacts, Rows, joined

THUMBNAIL_SIDE = 192  # pixels of the longer side


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    pixels: NDArray[np.uint8]  # [3, S, S], the whole picture squeezed to a square
    thumbnail: bytes  # JPEG, the longer side at most 192 pixels
    width: int  # of the picture as it is shown, in pixels
    height: int


@dataclass(frozen=True)
class Read:
    """A picture's file, read."""

    name: str  # in the index
    facts: FileFacts  # before it was read
    digest: bytes  # of its bytes; empty where the file cannot be opened
    picture: Picture | None  # None where the content is known or cannot be decoded
    problem: str = ""  # why it cannot be read


@dataclass
class Report:
    """What an index or an update did: counts of pictures, and what was left out."""

    added: int = 0
    changed: int = 0  # in their content
    deleted: int = 0
    unreachable: int = 0  # kept, though their file cannot be seen or opened now
    unchanged: int = 0
    # of those added or changed: their content was encoded before (moved, copied or only touched)
    reused: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)  # name, and why it cannot be read
    skipped: dict[str, str] = field(default_factory=dict)  # no picture: see images.walk.Found
    lines: list[str] = field(default_factory=list)  # what else a user should know

    def __str__(self) -> str:
        always = ("added", "changed", "deleted", "unchanged")
        parts = [f"{getattr(self, name):,} {name}" for name in always]
        parts += [f"{self.unreachable:,} unreachable, kept"] if self.unreachable else []
        parts += [f"{self.reused:,} of them known by content"] if self.reused else []
        parts += [f"{len(self.broken):,} unreadable, left out"] if self.broken else []
        return ", ".join(parts)

    def leave_out(self, reads: Sequence[Read]) -> None:
        """Note the files that cannot be read."""
        self.broken += [(read.name, read.problem) for read in reads]


def find_pictures(folder: Path, exclude: Sequence[str] = ()) -> Found:
    """What a folder of pictures holds, see :func:`udmsh_pl.images.walk.walk`; it must be there."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of your pictures")
    return walk(folder, exclude=exclude)


def digest_of(content: bytes) -> bytes:
    """BLAKE2b of a file's bytes, 16 bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def read_bytes(path: Path) -> bytes:
    """Content of a picture's file, see :func:`udmsh_pl.safe.untrusted.read_file`."""
    return read_file(path, "picture")


def decode(content: bytes, name: str, side: int) -> Picture:
    """Decode a picture for an encoder whose input is ``side`` pixels.

    Raises ``InputError``: it cannot be decoded; the message names it ``name``.
    """
    try:
        image = decode_rgb(content, at_least=2 * max(side, THUMBNAIL_SIDE))
    except UnreadablePicture as error:
        raise InputError(f"{name}: not a readable picture ({error.reason})") from error
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=75)
    return Picture(square(image, side), stream.getvalue(), *image.info["size"])


def read_files(
    root: Path, names: Sequence[str], side: int, known: Mapping[bytes, int]
) -> Iterator[Read]:
    """Read files in threads, in order; those whose content is ``known`` are not decoded."""

    def read(name: str) -> Read:
        path, facts, digest = root / name, FileFacts(), b""
        try:
            before, content = FileFacts.of(path.stat()), read_bytes(path)
            facts, digest = before, digest_of(content)
            picture = None if digest in known else decode(content, str(path), side)
        except (InputError, OSError) as error:
            return Read(name, facts, digest, None, str(error).removeprefix(f"{path}: "))
        return Read(name, facts, digest, picture)

    return in_order(read, names)


def rows_of(reads: Sequence[Read], codes: NDArray[np.uint8], features: NDArray[np.int8]) -> Rows:
    """Rows of decoded pictures with their codes and features."""
    pictures = [read.picture for read in reads if read.picture is not None]
    files = np.zeros(len(reads), FILES)
    for row, (read, picture) in enumerate(zip(reads, pictures, strict=True)):
        crc, digest = zlib.crc32(picture.thumbnail), np.frombuffer(read.digest, np.uint8)
        files[row] = (*read.facts, picture.width, picture.height, crc, digest)
    thumbnails = [picture.thumbnail for picture in pictures]
    return Rows([read.name for read in reads], files, codes, features, thumbnails)


def copies_of(reads: Sequence[Read], rows: Rows, known: Mapping[bytes, int]) -> Rows:
    """Rows of files whose content is in ``rows``, with its code, feature and thumbnail."""
    source = np.array([known[read.digest] for read in reads], dtype=np.int64)
    found = rows.take(source)
    files = found.files.copy()
    for name in FileFacts._fields:
        files[name] = [getattr(read.facts, name) for read in reads]
    return replace(found, names=[read.name for read in reads], files=files)


def encoded(
    reads: Iterator[Read], encoder: HashEncoder, known: Mapping[bytes, int], rows: Rows, size: int
) -> Iterator[tuple[Rows, list[Read]]]:
    """Rows of about ``size`` pictures at a time, and the reads that gave none; pictures are decoded
    while the encoder sees those before. Content that is ``known`` has a row in ``rows``, the index.
    """
    empty = Rows.empty(encoder.spec.code_bytes, encoder.spec.dims)
    made: list[Rows] = []
    broken: list[Read] = []
    for batch in wait_for("decode", ahead(batched(reads, BATCH))):
        fresh = [read for read in batch if read.picture is not None]
        copies = [read for read in batch if read.picture is None and not read.problem]
        pixels = iter([read.picture.pixels for read in fresh if read.picture is not None])
        with clock("backbone"):
            made += [rows_of(fresh, *found) for found in encoder.encode_pixels(pixels)]
        made += [copies_of(copies, rows, known)] if copies else []
        broken += [read for read in batch if read.problem]
        if sum(map(len, made)) + len(broken) >= size:
            yield joined([empty, *made]), broken
            made, broken = [], []
    if made or broken:
        yield joined([empty, *made]), broken
