"""Rows of an index in immutable files: a folder a segment, written beside and renamed.

A segment holds ``files.npy`` (size, times, inode, shape and hash of each picture), ``codes.npy``,
``features.npy``, ``names.bin`` (UTF-8, a zero byte between), ``thumbnails.bin`` and
``thumbnails.npy`` (where each begins). All but the thumbnails are checked by SHA-256 whenever an
index that is small enough to be read whole is opened; each thumbnail has a CRC of its own.
"""

import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file

DIGEST_BYTES = 16  # of a picture file's hash
_CONTENT: list[Any] = [("width", "<i4"), ("height", "<i4"), ("thumbnail_crc", "<u4")]
_CONTENT += [("digest", "u1", DIGEST_BYTES)]
_TIME: list[Any] = [("size", "<i8"), ("mtime_ns", "<i8")]
_STATE: list[Any] = [*_TIME, ("inode", "<u8"), ("ctime_ns", "<i8")]
FILES = np.dtype([*_STATE, *_CONTENT])
FILES_1 = np.dtype(_TIME + _CONTENT)  # of format 1
LATEST = (1 << 63) - 1  # nanoseconds that a row can hold: a time in 2262
UNCHECKED = "thumbnails.bin"
PARTS = ("files.npy", "codes.npy", "features.npy", "thumbnails.npy", "names.bin", UNCHECKED)

Int64s = NDArray[np.int64]


class FileFacts(NamedTuple):
    """What shows, without reading it, that a file is the one that was indexed: a copy may keep its
    size and time, but no user sets the time of change.
    """

    size: int = 0  # bytes
    mtime_ns: int = 0  # time of the last change of its content, nanoseconds, at most that of 2262
    inode: int = 0  # its number in its file system; 0 where an index of format 1 does not hold it
    ctime_ns: int = 0  # time of the last change of its state, nanoseconds; 0 likewise

    @classmethod
    def of(cls, facts: os.stat_result) -> "FileFacts":
        """From what the system says of a file."""
        mtime_ns = max(-LATEST, min(facts.st_mtime_ns, LATEST))
        ctime_ns = max(-LATEST, min(facts.st_ctime_ns, LATEST))
        return cls(facts.st_size, mtime_ns, facts.st_ino % (1 << 64), ctime_ns)


def unchanged(facts: Sequence[FileFacts], stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether rows of :data:`FILES` hold the same, bool [n], as far as they hold it."""
    now = np.array(facts, np.dtype(_STATE))
    times, states = (
        np.all([now[name] == stored[name] for name in names], axis=0)
        for names in (("size", "mtime_ns"), ("inode", "ctime_ns"))
    )
    return times & (states | ((stored["inode"] == 0) & (stored["ctime_ns"] == 0)))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Rows:
    """N pictures of an index; arrays of a large one are :class:`ConcatenatedArray`, on the disk."""

    names: Sequence[str]  # paths relative to the index's root, or absolute ones
    files: NDArray[Any]  # FILES [N]
    codes: NDArray[np.uint8]  # [N, ceil(K / 8)]
    features: NDArray[np.int8]  # [N, d]
    thumbnails: Sequence[bytes]  # JPEG files

    @classmethod
    def empty(cls, code_bytes: int, dims: int) -> "Rows":
        """No picture, with codes and features of these lengths."""
        codes, features = np.empty((0, code_bytes), np.uint8), np.empty((0, dims), np.int8)
        return cls([], np.empty(0, FILES), codes, features, [])

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: Int64s) -> "Rows":
        """The rows at these places; arrays are views where one row follows the other."""
        names, thumbnails = (
            [part[place] for place in places.tolist()] for part in (self.names, self.thumbnails)
        )
        some: Any = places
        if len(places) and (np.diff(places) == 1).all():
            some = slice(int(places[0]), int(places[-1]) + 1)
        files, codes, features = self.files[some], self.codes[some], self.features[some]
        return Rows(names, files, codes, features, thumbnails)


@dataclass(frozen=True)
class Segment:
    """What the manifest says of a segment."""

    name: str  # of its folder
    rows: int  # removed ones too
    files: dict[str, tuple[int, str]]  # name -> bytes and SHA-256
    removed: tuple[int, ...] = ()  # rows that are no longer in the index

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Segment":
        """From what JSON holds of one; raises what Python does for an object of another shape."""
        files = {name: (int(size), str(sha)) for name, (size, sha) in plain["files"].items()}
        if set(files) != set(PARTS) or "/" in plain["name"] or plain["name"].startswith("."):
            raise ValueError("a segment of other files")
        removed = tuple(int(row) for row in plain["removed"])
        return cls(str(plain["name"]), int(plain["rows"]), files, removed)


def write_segment(parent: Path, name: str, rows: Rows) -> Segment:
    """Write a segment's folder ``parent/name``; until it is renamed, nobody sees it."""
    part = parent / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lengths = [0, *map(len, rows.thumbnails)]
    arrays = {
        "files.npy": rows.files,
        "codes.npy": rows.codes,
        "features.npy": rows.features,
        "thumbnails.npy": np.cumsum(lengths, dtype=np.int64).astype("<i8"),
    }
    names = "\0".join(rows.names).encode("utf-8", "surrogateescape")
    blobs = {"names.bin": [names], UNCHECKED: rows.thumbnails}
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
    """Rows of a segment that are still in the index; names and thumbnails stay on the disk. Where
    ``mapped``, arrays do too, and of the files only the sizes are checked. An InputError says that
    a file is cut, altered or of another shape than the manifest says, a FileNotFoundError that it
    is not there: another process has replaced the segment.
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
            former, files = files, np.zeros(len(files), FILES)
            for name in FILES_1.names or ():
                files[name] = former[name]
        count = segment.rows
        shapes: list[Any] = [
            (files, (count,), FILES),
            (codes, (count, (bits + 7) // 8), np.uint8),
            (features, (count, dims), np.int8),
            (starts, (count + 1,), np.dtype("<i8")),
        ]
        if any(array.shape != shape or array.dtype != dtype for array, shape, dtype in shapes):
            raise ValueError("an array of another shape")
        if len(kept) + len(set(segment.removed)) != count:
            raise ValueError("another number of rows")
    except (ValueError, IndexError, EOFError) as error:
        raise InputError(f"{folder} is damaged ({error}); build the index anew") from error
    thumbnails = Thumbnails(folder / UNCHECKED, starts, files["thumbnail_crc"], kept)
    names = Names(folder / "names.bin", count, kept)
    arrays: list[Any] = [files, codes, features]
    if len(kept) < count:
        arrays = [ConcatenatedArray([one], [kept]) if mapped else one[kept] for one in arrays]
    files, codes, features = arrays
    return Rows(names, files, codes, features, thumbnails)


def joined(parts: Sequence[Rows], mapped: bool = False) -> Rows:
    """The rows of one part or more; ``mapped`` arrays stay on the disk."""
    join: Any = ConcatenatedArray if mapped else np.concatenate

    def column(name: str) -> list[Any]:
        return [getattr(part, name) for part in parts]

    names, thumbnails = (Concatenated(column(name)) for name in ("names", "thumbnails"))
    files, codes, features = (join(column(name)) for name in ("files", "codes", "features"))
    return Rows(names, files, codes, features, thumbnails)


class Concatenated(Sequence[Any]):
    """Several sequences as one."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, row: Any) -> Any:
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part][row - (int(self.ends[part - 1]) if part else 0)]

    def __iter__(self) -> Any:
        for part in self.parts:
            yield from part


class ConcatenatedArray:
    """Arrays [n, ...], or concatenated ones, as one, each with the rows of it that count, None for
    all: what is asked for is copied, the rest stays on the disk.
    """

    def __init__(self, parts: Sequence[Any], kept: Sequence[Int64s | None] | None = None) -> None:
        self.parts: list[tuple[NDArray[Any], Int64s | None]] = []  # arrays and rows
        for part, rows in zip(parts, kept or [None] * len(parts), strict=True):
            self.parts += part.parts if isinstance(part, ConcatenatedArray) else [(part, rows)]
        self.ends = np.cumsum([len(part if rows is None else rows) for part, rows in self.parts])
        self.dtype = parts[0].dtype
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole: NDArray[Any] = self[np.arange(len(self))]
        return whole if dtype is None else whole.astype(dtype)

    def __getitem__(self, item: Any) -> Any:
        """A field of all rows by its name; a row, a slice of rows, or rows by their numbers."""
        if isinstance(item, str):
            fields = [one[item] if rows is None else one[item][rows] for one, rows in self.parts]
            return np.concatenate(fields)
        if isinstance(item, slice):
            item = np.arange(*item.indices(len(self)))
        rows = np.atleast_1d(np.asarray(item, dtype=np.int64))
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(owner).tolist():
            mine, (part, kept) = owner == number, self.parts[number]
            own = rows[mine] - (self.ends[number - 1] if number else 0)
            found[mine] = part[own if kept is None else kept[own]]
        return found if np.ndim(item) else found[0]


class Names(Sequence[Any]):
    """Names of chosen rows of a file of ``total``, a zero byte between, decoded when asked for."""

    def __init__(self, path: Path, total: int, rows: Int64s) -> None:
        self.path, self.total, self.rows, self._content = path, total, rows, _mapped(path)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _ends(self) -> Int64s:
        zeros = np.flatnonzero(self._content == 0).astype(np.int64)
        if len(zeros) + 1 != max(self.total, 1):
            damage = "is damaged (another number of names); build the index anew"
            raise InputError(f"{self.path} {damage}")
        return np.append(zeros, np.int64(len(self._content)))

    def __getitem__(self, row: Any) -> Any:
        row = self.rows[row]
        start = self._ends[row - 1] + 1 if row else 0
        return _text(self._content[start : self._ends[row]])

    def __iter__(self) -> Any:
        if self._ends is not None and len(self.rows):
            every = _text(self._content).split("\0")
            yield from (every[row] for row in self.rows.tolist())


class Thumbnails(Sequence[Any]):
    """Thumbnails of chosen rows of a mapped file, by where each starts and ends, and its CRC-32."""

    def __init__(self, path: Path, starts: Int64s, crcs: NDArray[np.uint32], rows: Int64s) -> None:
        self.path, self.starts, self.crcs, self.rows = path, starts, crcs, rows
        self._content = _mapped(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        row = self.rows[row]
        found = self._content[self.starts[row] : self.starts[row + 1]].tobytes()
        if zlib.crc32(found) != self.crcs[row]:
            raise InputError(f"{self.path} is altered; build the index anew")
        return found


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped at once: a later writer may remove the file."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


def _text(content: NDArray[np.uint8]) -> str:
    return content.tobytes().decode("utf-8", "surrogateescape")
