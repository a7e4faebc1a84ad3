"""Checksums of large files, computed once: a stamp says which size and time were found whole."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from udmsh_pl.safe.files import read_object, sha256_file, write_text


def are_whole(files: Mapping[Path, str], stamp: Path) -> bool:
    """Whether each file has its SHA-256 (hexadecimal); a file that is absent is not whole.

    Every byte is read the first time, and again when the size or the time of change of any of the
    files is not the one that ``stamp`` recorded, or could not record.
    """
    try:
        facts = {}
        for path, digest in files.items():
            state = path.stat()
            own = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}
            facts[path.name] = own
        if read_stamp(stamp) == facts:
            return True
        if any(sha256_file(path) != digest for path, digest in files.items()):
            return False
    except FileNotFoundError:
        return False
    with suppress(OSError):
        write_text(stamp, json.dumps(facts))
    return True


def read_stamp(stamp: Path) -> dict[str, dict[str, Any]]:
    """``size``, ``mtime_ns`` and ``sha256`` of each file name in a stamp; empty without one."""
    return {name: own for name, own in read_object(stamp).items() if isinstance(own, dict)}
