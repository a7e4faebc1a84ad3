"""An index on disk: immutable segments, and one manifest that says which of them count.

``index.json`` is replaced atomically, so a reader sees the old index or the new one, and a writer
that is killed leaves files that nobody names, which the next writer removes. One writer at a time
holds the lock; a second one is refused. (LanceDB is as safe, but takes 3 to 4 s to import.)
"""

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import read_object
from udmsh_pl.search.segment import UNCHECKED, Rows, Segment, joined, read_segment, write_segment
from udmsh_pl.search.spec import read_json, write_json

MANIFEST, LOCK, OWNER, SEGMENTS = "index.json", "lock", "lock.owner", "segments"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of some shares
FORMAT, FORMATS = 2, (1, 2)  # written, and read; 1 holds neither inodes nor times of change
RECALL = 0.99  # of a search through inverted lists
MAX_MANIFEST = 1 << 28  # bytes
IN_MEMORY = 1 << 25  # bytes of an index that are read and checked whole when it is opened
MOST_SEGMENTS = 16  # beyond, the smallest are merged
MOST_REMOVED = 0.25  # share of a segment's rows; beyond, it is written anew


@dataclass(frozen=True)
class Manifest:
    """What an index consists of."""

    version: int  # counts the writes
    root: str  # folder of the pictures, absolute
    encoder: str  # name of its folder
    bits: int  # code length K
    dims: int  # length of the re-rank feature
    segments: tuple[Segment, ...] = ()
    lists: str = ""  # name of the folder of inverted lists; none where every code is looked at
    recall: float = RECALL  # share of the nearest codes that a search through lists should find
    exclude: tuple[str, ...] = ()  # patterns of what an update leaves out, see images.walk.excluded


def read_manifest(path: Path) -> Manifest:
    """Read ``index.json``; raises InputError if it is absent, damaged, or of another format."""
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f"{path} is no index; `udmsh index PICTURES --out {path}` makes one")
    return read_json(file, MAX_MANIFEST, FORMATS, _manifest, "build the index anew")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Make ``manifest`` the index: the one moment at which it changes."""
    write_json(path / MANIFEST, FORMAT, manifest)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Be the only writer of an index's folder; leaves no file that the manifest does not name.

    Raises ``InputError``: another process writes there, or the folder holds something else.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give --out a folder")
    ours = any((path / name).exists() for name in (MANIFEST, LOCK, OWNER))
    if path.is_dir() and not ours and any(path.iterdir()):
        raise InputError(f"{path} is a folder of something else; give --out another one")
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        _sweep(path)
        yield
        _sweep(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock, which the system releases if the process is killed."""
    with (path / LOCK).open("ab") as stream, ExitStack() as stack:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(fcntl.flock, stream, fcntl.LOCK_UN)
        except BlockingIOError as error:
            mend = "wait until it has ended"
            raise InputError(f"another process is writing {path}; {mend}") from error
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            stack.enter_context(_owned(path))
        yield


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """For file systems without locks: a file that says which process writes, and since when."""
    owner, host = path / OWNER, socket.gethostname()
    for attempt in range(2):
        try:
            with owner.open("x", encoding="utf-8") as stream:
                json.dump({"host": host, "process": os.getpid(), "since": time.ctime()}, stream)
            break
        except FileExistsError as error:
            other = read_object(owner) or {"owner": "unknown"}
            if attempt or other.get("host") != host or _runs(other.get("process")):
                who = ", ".join(f"{name} {value}" for name, value in other.items())
                problem = f"another process is writing {path} ({who})"
                raise InputError(f"{problem}; if it has ended, delete {owner}") from error
            owner.unlink(missing_ok=True)
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)


def _runs(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, TypeError, OverflowError):
        pass
    return True


def read_rows(path: Path, manifest: Manifest) -> Rows:
    """All rows of an index, in the order of its segments: in memory if they take at most 32 MB,
    else in mapped files. An InputError says that a file is cut or altered (of mapped ones,
    :func:`check` looks at every byte), a FileNotFoundError that a segment was replaced meanwhile.
    """
    segments, bits, dims = manifest.segments, manifest.bits, manifest.dims
    files = [pair for segment in segments for pair in segment.files.items()]
    mapped = sum(size for name, (size, _) in files if name != UNCHECKED) > IN_MEMORY
    parts = [read_segment(path / SEGMENTS, one, bits, dims, mapped) for one in segments]
    if len(parts) == 1:
        return parts[0]
    return joined(parts or [Rows.empty((bits + 7) // 8, dims)], mapped)


def check(path: Path, manifest: Manifest) -> None:
    """Raise InputError if a byte of the index's segments, but for thumbnails, was altered."""
    for segment in manifest.segments:
        read_segment(path / SEGMENTS, segment, manifest.bits, manifest.dims)


def open_rows(path: Path) -> tuple[Manifest, Rows]:
    """The newest manifest and its rows; a writer that replaces files meanwhile is waited for."""
    for _ in range(10):
        manifest = read_manifest(path)
        try:
            return manifest, read_rows(path, manifest)
        except FileNotFoundError as error:
            if read_manifest(path).version == manifest.version:
                raise InputError(f"{error.filename} is missing; build the index anew") from error
    raise InputError(f"{path} changes all the time; open it when its writer has ended")


def without(manifest: Manifest, rows: NDArray[np.int64]) -> Manifest:
    """The manifest with live rows (as :func:`read_rows` counts them) taken out."""
    segments, start = [], 0
    for segment in manifest.segments:
        live = np.setdiff1d(np.arange(segment.rows), np.asarray(segment.removed, dtype=np.int64))
        gone = live[rows[(rows >= start) & (rows < start + len(live))] - start]
        start += len(live)
        removed = tuple(sorted({*segment.removed, *gone.tolist()}))
        if len(removed) < segment.rows:
            segments.append(replace(segment, removed=removed))
    return replace(manifest, segments=tuple(segments))


def compacted(path: Path, manifest: Manifest) -> Manifest:
    """The manifest after segments with many removed rows, and the smallest of many, were merged."""
    segments = list(manifest.segments)
    merged = [one for one in segments if len(one.removed) > MOST_REMOVED * one.rows]
    if len(segments) > MOST_SEGMENTS:
        by_size = sorted(segments, key=lambda segment: segment.rows)
        merged += [one for one in by_size[: MOST_SEGMENTS - 1] if one not in merged]
    if not merged:
        return manifest
    rows = read_rows(path, replace(manifest, segments=tuple(merged)))
    kept = [one for one in segments if one not in merged]
    new = write_segment(path / SEGMENTS, f"{manifest.version + 1:06d}-merged", rows)
    return replace(manifest, segments=(*kept, new))


def _sweep(path: Path) -> None:
    """Remove what a killed writer left, and segments and encoders that are no longer named."""
    named: set[str] = set()
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        named = {manifest.encoder, manifest.lists, *(segment.name for segment in manifest.segments)}
    ours = [*path.glob("encoder-*"), *path.glob("lists-*"), *path.glob(".lists-*")]
    for folder in [*ours, *(path / SEGMENTS).glob("*")]:
        if folder.name not in named:
            shutil.rmtree(folder)
    for partial in path.glob(".*.part*"):
        partial.unlink()


def _manifest(plain: dict[str, Any]) -> Manifest:
    facts = {name: plain[name] for name in ("version", "root", "encoder", "bits", "dims")}
    facts |= {"lists": plain.get("lists", ""), "recall": float(plain.get("recall", RECALL))}
    facts["exclude"] = tuple(map(str, plain.get("exclude", ())))
    for name in ("encoder", "lists"):
        if "/" in facts[name] or facts[name].startswith("."):
            raise ValueError(f"{name} elsewhere")
    return Manifest(**facts, segments=tuple(map(Segment.of, plain["segments"])))
