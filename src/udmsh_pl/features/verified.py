"""Checksums of large files, computed once: a stamp beside them says which size and time of change
were found whole.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from udmsh_pl.safe.files import sha256_file, write_text


def are_whole(files: Mapping[Path, str], stamp: Path) -> bool:
    """Whether each file has the SHA-256 that it should have.

    Every byte is read the first time, and again when the size or the time of change of any of the
    files is not the one that ``stamp`` recorded.

    Args:
        files: path -> SHA-256 in hexadecimal
        stamp: JSON file that keeps what was found; a place that cannot be written is no error, the
            bytes are then read each time

    Raises:
        OSError: a file cannot be read; a file that is absent is not whole.
    """
    try:
        facts = {path.name: _facts(path, digest) for path, digest in files.items()}
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
    """What a stamp recorded, by file name: ``size``, ``mtime_ns`` and ``sha256``; empty when there
    is none.
    """
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: facts for name, facts in entries if isinstance(facts, dict)}


def _facts(path: Path, digest: str) -> dict[str, Any]:
    state = path.stat()
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}
