"""Pictures of a folder become rows of an index: read, compared by content with what is known,
encoded.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search.encoder import HashEncoder
from udmsh_pl.search.pictures import (
    Picture,
    decode,
    digest_of,
    facts_of,
    in_order,
    read_bytes,
)
from udmsh_pl.search.segment import FILES, FileFacts, Rows


@dataclass
class Report:
    """What an index or an update did.

    Args:
        added: pictures that were not there
        changed: pictures whose content changed
        deleted: pictures whose file is gone
        unreachable: pictures that are kept, though their file cannot be seen or opened now
        unchanged: pictures that were left as they are
        reused: of those added or changed, how many have a content that was encoded before (a file
            that was moved, copied or only touched)
        broken: name and reason of each picture that cannot be read; they are left out
        lines: what else a user should know
    """

    added: int = 0
    changed: int = 0
    deleted: int = 0
    unreachable: int = 0
    unchanged: int = 0
    reused: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = [f"{self.added:,} added", f"{self.changed:,} changed", f"{self.deleted:,} deleted"]
        told += [f"{self.unchanged:,} unchanged"]
        told += [f"{self.unreachable:,} unreachable, kept"] if self.unreachable else []
        told += [f"{self.reused:,} of them known by content"] if self.reused else []
        told += [f"{len(self.broken):,} unreadable, left out"] if self.broken else []
        return ", ".join(told)


@dataclass(frozen=True)
class Read:
    """A picture's file, read.

    Args:
        name: in the index
        facts: its size and time before it was read
        digest: of its bytes; empty where the file cannot be opened
        picture: decoded, or None where the content is known or cannot be decoded
        problem: why it cannot be read
    """

    name: str
    facts: FileFacts
    digest: bytes
    picture: Picture | None
    problem: str = ""


def read_files(
    root: Path, names: Sequence[str], side: int, known: Mapping[bytes, int]
) -> Iterator[Read]:
    """Read files in threads, in order; those whose content is ``known`` are not decoded."""

    def read(name: str) -> Read:
        path = root / name
        try:
            facts, content = facts_of(path), read_bytes(path)
        except (InputError, OSError) as error:
            return Read(name, FileFacts(), b"", None, str(error))
        digest = digest_of(content)
        try:
            picture = None if digest in known else decode(content, str(path), side)
        except InputError as error:
            return Read(name, facts, digest, None, str(error))
        return Read(name, facts, digest, picture)

    return in_order(read, names)


def rows_of(reads: Sequence[Read], codes: NDArray[np.uint8], features: NDArray[np.int8]) -> Rows:
    """Rows of decoded pictures with their codes and features."""
    pictures = [read.picture for read in reads if read.picture is not None]
    files = np.zeros(len(reads), FILES)
    for row, (read, picture) in enumerate(zip(reads, pictures, strict=True)):
        files[row] = (
            *read.facts,
            picture.width,
            picture.height,
            zlib.crc32(picture.thumbnail),
            np.frombuffer(read.digest, np.uint8),
        )
    thumbnails = [picture.thumbnail for picture in pictures]
    return Rows([read.name for read in reads], files, codes, features, thumbnails)


def copies_of(reads: Sequence[Read], rows: Rows, known: Mapping[bytes, int]) -> Rows:
    """Rows of files whose content is in ``rows``: code, feature and thumbnail are taken from
    there.
    """
    source = np.array([known[read.digest] for read in reads], dtype=np.int64)
    files = rows.files[source].copy()
    for name in FileFacts._fields:
        files[name] = [getattr(read.facts, name) for read in reads]
    thumbnails = [rows.thumbnails[row] for row in source.tolist()]
    return Rows(
        [read.name for read in reads], files, rows.codes[source], rows.features[source], thumbnails
    )


def encoded(
    reads: Iterator[Read], encoder: HashEncoder, known: Mapping[bytes, int], rows: Rows, size: int
) -> Iterator[tuple[Rows, list[Read]]]:
    """Rows of at most about ``size`` pictures at a time, and the reads that gave none.

    Args:
        reads: files
        encoder: for those that were decoded
        known: content -> row of ``rows``
        rows: of the index so far
        size: pictures held in memory
    """
    waiting: list[Read] = []

    def flush() -> tuple[Rows, list[Read]]:
        fresh = [read for read in waiting if read.picture is not None]
        copies = [read for read in waiting if read.picture is None and not read.problem]
        found = list(
            encoder.encode_pixels(read.picture.pixels for read in fresh if read.picture is not None)
        )
        made = rows_of(
            fresh,
            np.concatenate([np.empty((0, rows.codes.shape[1]), np.uint8), *(a for a, _ in found)]),
            np.concatenate(
                [np.empty((0, rows.features.shape[1]), np.int8), *(b for _, b in found)]
            ),
        )
        return joined(made, copies_of(copies, rows, known)), [one for one in waiting if one.problem]

    for read in reads:
        waiting.append(read)
        if len(waiting) == size:
            yield flush()
            waiting = []
    if waiting:
        yield flush()


def joined(one: Rows, two: Rows) -> Rows:
    """Rows of both."""
    return Rows(
        [*one.names, *two.names],
        np.concatenate([one.files, two.files]),
        np.concatenate([one.codes, two.codes]),
        np.concatenate([one.features, two.features]),
        [*one.thumbnails, *two.thumbnails],
    )
