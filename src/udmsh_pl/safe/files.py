"""Files that are either whole or absent: write beside, then rename."""

import csv
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from udmsh_pl.errors import InputError

LEFT_BEHIND = 3600  # seconds; no file of ours takes as long to write
_PARTIAL = re.compile(r"\..+\.\d+\.part(\..+)?")  # what atomic_path writes to


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it becomes ``target`` at the end of the block.

    On an error, or when the process is killed, ``target`` keeps its former content (or stays
    absent). The temporary name ends like the target: NumPy and Matplotlib look at the extension.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    except OSError as error:
        error.filename = error.filename or str(target)  # a full disk does not say which file it was
        raise
    finally:
        partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written below a folder, an hour ago or more.

    By age, since a folder may be shared with other machines, whose processes nobody here knows.
    """
    before = time.time() - LEFT_BEHIND
    for path in folder.rglob(".*.part*"):
        with suppress(OSError):  # another process sweeps too
            if _PARTIAL.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < before:
                path.unlink()


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target`` as UTF-8, whole or not at all."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; a file of any size is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(facts: Any) -> str:
    """SHA-256 of what JSON can hold, in hexadecimal; it does not depend on the order of names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def save_arrays(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed ``.npz`` without pickle, whole or not at all.

    Raises ``InputError``: the disk is full or the folder cannot be written.
    """
    try:
        with atomic_path(target) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                # what NumPy's own writer does since 2.1; earlier ones leave the file open on errors
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
    except OSError as error:
        mend = "free some room or give another folder"
        raise InputError(f"{target} cannot be written ({error}); {mend}") from error
