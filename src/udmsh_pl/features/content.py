"""What is in a picture's file, by a digest of its bytes: features belong to contents, not to names.

A folder's bytes are read once: ``contents-*.npz`` in the cache remembers the digest of each file by
the file's state (name, size, inode, times of writing and of change, which no user sets), so that
only files which were added, replaced or touched are read again.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.usable import Reasons, find_broken, read_broken, write_broken
from udmsh_pl.safe.files import save_arrays

DIGEST_BYTES = 16
_AT_ONCE = 1024  # files that wait for a thread
_PATIENCE = 5  # seconds before a bar is shown


def contents_of(images: ImageList, cache: Path) -> list[bytes] | None:
    """BLAKE2b of each row's bytes, 16 bytes a row; None for images in memory, an error for absent
    ones. The folder ``cache`` remembers them, where it can be written.
    """
    if images.pixels is not None:
        return None
    root = str((images.root or Path()).absolute()).encode(errors="surrogateescape")
    memory = cache.expanduser() / f"contents-{hashlib.sha256(root).hexdigest()[:16]}.npz"
    states = [_state(images, row) for row in range(len(images))]
    known = _remembered(memory)
    unread = [row for row, state in enumerate(states) if state not in known]
    if unread:
        known |= {states[row]: digest for row, digest in _read(images, unread)}
        table = np.frombuffer(b"".join(a + b for a, b in known.items()), np.uint8)
        with suppress(InputError):
            save_arrays(memory, {"contents": table.reshape(-1, 2 * DIGEST_BYTES)})
    return [known[state] for state in states]


def images_id(images: ImageList, contents: list[bytes] | None) -> str:
    """SHA-256 over what decides the rows' pictures, in order: stale features are never used."""
    digest = hashlib.sha256(b"".join(contents or ()))
    if contents is not None:
        return digest.hexdigest()
    for name in images.names:  # in memory; as 0.1.0 did, whose stores are still good
        digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
    if images.pixels is not None:
        digest.update(np.ascontiguousarray(images.pixels).data)
    return digest.hexdigest()


def broken_of(images: ImageList, cache: Path, workers: int) -> Reasons:
    """Names of images that cannot be decoded, and why, of a list that no features are made of.

    All are decoded once, which ``broken-*.json`` in the cache remembers; an absent one is refused.
    """
    contents = contents_of(images, cache)
    if contents is None:
        return {}
    memory = cache.expanduser() / f"broken-{images_id(images, contents)[:16]}.json"
    if not memory.exists():
        write_broken(memory, find_broken(images, workers=workers))
    return read_broken(memory)


def _blake(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _state(images: ImageList, row: int) -> bytes:
    try:
        facts = images.path(row).stat()
    except (OSError, ValueError):
        images.load(row)  # raises the error that names the list line and the mend
        raise
    numbers = facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns
    return _blake(f"{images.names[row]}\0{numbers}".encode("utf-8", "surrogateescape"))


def _read(images: ImageList, rows: list[int]) -> Iterator[tuple[int, bytes]]:
    def digest(row: int) -> bytes:
        try:
            return _blake(images.content(row))
        except InputError:  # a pipe, or too large: decoding finds out
            return _blake(b"unread" + _state(images, row))

    bar = tqdm(total=len(rows), unit="img", desc="read", delay=_PATIENCE)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, bar:
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            yield from zip(part, pool.map(digest, part), strict=True)
            bar.update(len(part))


def _remembered(memory: Path) -> dict[bytes, bytes]:
    try:
        with np.load(memory, allow_pickle=False) as arrays:
            table = arrays["contents"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
    if table.dtype != np.uint8 or table.shape[1:] != (2 * DIGEST_BYTES,):
        return {}
    return {bytes(row[:DIGEST_BYTES]): bytes(row[DIGEST_BYTES:]) for row in table}
