"""Rows of an index in immutable files: a folder a segment, written beside and renamed.

A segment holds ``files.npy`` (size, times, inode, shape and hash of each picture), ``codes.npy``,
``features.npy``, ``names.bin`` (UTF-8, a zero byte between), ``thumbnails.bin`` and
``thumbnails.npy`` (where each begins). All but the thumbnails are checked by SHA-256 whenever an
index that is small enough to be read whole is opened; each thumbnail has a CRC of its own.
"""

import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file
from udmsh_pl.search.concatenated import ConcatenatedArray, Names

DIGEST_BYTES = 16  # of a picture file's hash
_CONTENT: list[Any] = [
    ("width", "<i4"),
    ("height", "<i4"),
    ("thumbnail_crc", "<u4"),
    ("digest", "u1", DIGEST_BYTES),
]
_TIME: list[Any] = [("size", "<i8"), ("mtime_ns", "<i8")]
FILES = np.dtype([*_TIME, ("inode", "<u8"), ("ctime_ns", "<i8"), *_CONTENT])
FILES_1 = np.dtype(_TIME + _CONTENT)  # of format 1
LATEST = (1 << 63) - 1  # nanoseconds that a row can hold: a time in 2262
UNCHECKED = "thumbnails.bin"
PARTS = ("files.npy", "codes.npy", "features.npy", "thumbnails.npy", "names.bin", UNCHECKED)


class FileFacts(NamedTuple):
    """What shows, without reading it, that a file is the one that was indexed: a copy may keep its
    size and time, but no user sets the time of change.

    Args:
        size: bytes
        mtime_ns: time of the last change of its content, nanoseconds, at most that of 2262
        inode: its number in its file system; 0 where an index of format 1 does not hold it
        ctime_ns: time of the last change of its state, nanoseconds; 0 likewise
    """

    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    ctime_ns: int = 0

    @classmethod
    def of(cls, facts: os.stat_result) -> "FileFacts":
        """From what the system says of a file."""
        mtime_ns, ctime_ns = (
            max(-LATEST, min(time, LATEST)) for time in (facts.st_mtime_ns, facts.st_ctime_ns)
        )
        return cls(facts.st_size, mtime_ns, facts.st_ino % (1 << 64), ctime_ns)

    def fits(self, stored: Any) -> bool:
        """Whether a row of :data:`FILES` has the same; what it does not hold is not compared."""
        held = self._fields if stored["inode"] or stored["ctime_ns"] else ("size", "mtime_ns")
        return all(getattr(self, name) == stored[name] for name in held)


@dataclass(frozen=True, eq=False)
class Rows:
    """N pictures of an index. In a large one, arrays are :class:`ConcatenatedArray`, which are
    fetched from the disk row by row.

    Args:
        names: paths relative to the index's root, or absolute ones
        files: :data:`FILES` [N]
        codes: uint8 [N, ceil(K / 8)]
        features: int8 [N, d]
        thumbnails: JPEG files
    """

    names: Sequence[str]
    files: NDArray[Any]
    codes: NDArray[np.uint8]
    features: NDArray[np.int8]
    thumbnails: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Segment:
    """What the manifest says of a segment.

    Args:
        name: of its folder
        rows: number of rows, removed ones too
        files: name -> [bytes, SHA-256] of each file
        removed: rows that are no longer in the index
    """

    name: str
    rows: int
    files: dict[str, tuple[int, str]]
    removed: tuple[int, ...] = ()


class Thumbnails(Sequence[bytes]):
    """Thumbnails of a segment's chosen rows, read from a mapped file when asked for."""

    def __init__(
        self,
        path: Path,
        starts: NDArray[np.int64],
        crcs: NDArray[np.uint32],
        rows: NDArray[np.int64],
    ) -> None:
        self.path, self.starts, self.crcs, self.rows = path, starts, crcs, rows
        self._content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, "u1")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Any:
        row = self.rows[item]
        found = self._content[self.starts[row] : self.starts[row + 1]].tobytes()
        if zlib.crc32(found) != self.crcs[row]:
            raise InputError(f"{self.path} is altered; build the index anew")
        return found


def write_segment(parent: Path, name: str, rows: Rows) -> Segment:
    """Write a segment's folder ``parent/name``; until it is renamed, nobody sees it."""
    part = parent / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lengths = [len(thumbnail) for thumbnail in rows.thumbnails]
    arrays = {
        "files.npy": rows.files,
        "codes.npy": rows.codes,
        "features.npy": rows.features,
        "thumbnails.npy": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<i8"),
    }
    blobs = {
        "names.bin": ["\0".join(rows.names).encode("utf-8", "surrogateescape")],
        UNCHECKED: rows.thumbnails,
    }
    facts: dict[str, tuple[int, str]] = {}
    for file in PARTS:
        path = part / file
        try:
            with path.open("wb") as stream:
                if file in arrays:
                    np.save(stream, arrays[file], allow_pickle=False)
                for blob in blobs.get(file, ()):
                    stream.write(blob)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk does not say which it was
            shutil.rmtree(part, ignore_errors=True)
            raise
        facts[file] = path.stat().st_size, sha256_file(path)
    part.rename(parent / name)
    return Segment(name, len(rows), facts)


def read_segment(
    parent: Path, segment: Segment, bits: int, dims: int, mapped: bool = False
) -> Rows:
    """Rows of a segment that are still in the index; names and thumbnails stay on the disk.

    Args:
        parent: folder of the segments
        segment: which one
        bits: code length K
        dims: length of the re-rank feature
        mapped: arrays stay on the disk too, and only the sizes of the files are checked

    Raises:
        InputError: a file is cut, altered, or of another shape than the manifest says.
        FileNotFoundError: a file is not there (another process has replaced the segment).
    """
    folder = parent / segment.name
    for file in PARTS:
        size, sha256 = segment.files[file]
        path = folder / file
        cut = path.stat().st_size != size
        if cut or (file != UNCHECKED and not mapped and sha256_file(path) != sha256):
            raise InputError(f"{path} was cut or altered; build the index anew")
    try:
        living = np.ones(segment.rows, dtype=bool)
        living[np.asarray(segment.removed, dtype=np.int64)] = False
        kept = np.flatnonzero(living)
        files, codes, features, starts = (
            np.load(folder / file, "r" if mapped else None, allow_pickle=False)
            for file in ("files.npy", "codes.npy", "features.npy", "thumbnails.npy")
        )
        if files.dtype == FILES_1:
            files = _of_format_1(files)
        shapes = [
            (files, (segment.rows,), FILES),
            (codes, (segment.rows, (bits + 7) // 8), np.dtype(np.uint8)),
            (features, (segment.rows, dims), np.dtype(np.int8)),
            (starts, (segment.rows + 1,), np.dtype("<i8")),
        ]
        if any(array.shape != shape or array.dtype != dtype for array, shape, dtype in shapes):
            raise ValueError("an array of another shape")
        if len(kept) + len(set(segment.removed)) != segment.rows:
            raise ValueError("another number of rows")
    except (ValueError, IndexError, EOFError) as error:
        raise InputError(f"{folder} is damaged ({error}); build the index anew") from error
    thumbnails = Thumbnails(folder / UNCHECKED, starts, files["thumbnail_crc"], kept)
    names = Names(folder / "names.bin", segment.rows, kept)
    if len(kept) < segment.rows:
        some: list[Any] = [
            ConcatenatedArray([one], [kept]) if mapped else one[kept]
            for one in (files, codes, features)
        ]
        files, codes, features = some
    return Rows(names, files, codes, features, thumbnails)


def _of_format_1(files: NDArray[Any]) -> NDArray[Any]:
    found = np.zeros(len(files), FILES)
    for name in FILES_1.names or ():
        found[name] = files[name]
    return found


def some_rows(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """The rows at these places."""
    names, thumbnails = (
        [part[place] for place in places.tolist()] for part in (rows.names, rows.thumbnails)
    )
    return Rows(names, rows.files[places], rows.codes[places], rows.features[places], thumbnails)


def blocks(rows: Rows, size: int) -> Iterator[Rows]:
    """Parts of at most ``size`` rows."""
    for start in range(0, len(rows), size):
        yield some_rows(rows, np.arange(start, min(start + size, len(rows))))
