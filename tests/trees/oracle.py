"""What an index must hold, from the disk alone: written without the package's walk and update."""
# ruff: noqa: PTH112, PTH114, PTH116, PTH123, PTH208

import fnmatch
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from PIL import Image

SYSTEM = ("@eadir", "#recycle", "lost+found", "#snapshot", "$recycle.bin", "__macosx")
Held = dict[str, bytes]  # BLAKE2b of a picture's file, 16 bytes, by its name


@dataclass
class Seen:
    """What a look at the disk gives.

    Args:
        pictures: that can be read
        closed: names of files that may be pictures and cannot be opened
        broken: names of files that are open and no pictures
        left_out: everything else
    """

    pictures: Held = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)


def look(root: Path, exclude: Sequence[str]) -> Seen:
    """Everything under ``root``."""
    seen = Seen()
    _look(str(root), "", exclude, seen)
    return seen


def _look(folder: str, prefix: str, exclude: Sequence[str], seen: Seen) -> None:
    try:
        names = os.listdir(folder)
    except OSError:
        seen.left_out.add(prefix.rstrip("/"))
        return
    if prefix and ".nomedia" in names and not os.path.isdir(f"{folder}/.nomedia"):
        seen.left_out.add(prefix.rstrip("/"))
        return
    for name in names:
        own, path = prefix + name, f"{folder}/{name}"
        hidden = name.startswith(".") or any(fnmatch.fnmatchcase(name, one) for one in exclude)
        try:
            facts = os.stat(path)
        except OSError:
            seen.left_out.add(own)
            continue
        if S_ISDIR(facts.st_mode):
            if hidden or name.lower() in SYSTEM or os.path.islink(path):
                seen.left_out.add(own)
            else:
                _look(path, own + "/", exclude, seen)
        elif hidden or not S_ISREG(facts.st_mode) or name[-4:].lower() not in (".png", ".bmp"):
            seen.left_out.add(own)
        else:
            _open(path, own, seen)


def _open(path: str, name: str, seen: Seen) -> None:
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError:
        seen.closed.add(name)
        return
    try:
        Image.open(io.BytesIO(content)).load()
    except Exception:
        seen.broken.add(name)
        return
    seen.pictures[name] = hashlib.blake2b(content, digest_size=16).digest()


def gone(root: Path, name: str) -> bool:
    """Whether a file is surely not there: a folder on the way can be listed and lacks the next."""
    path = "/" if name.startswith("/") else str(root)
    for part in name.strip("/").split("/"):
        try:
            names = os.listdir(path)
        except NotADirectoryError:
            return True
        except PermissionError:
            if not (name.startswith("/") and os.path.lexists(f"{path}/{part}")):
                return False
            names = [part]  # a folder above ours that nobody may list
        except OSError:  # closed, or a link to nothing
            return False
        if part not in names:
            return True
        path = f"{path}/{part}"
    return False


def reachable(root: Path, name: str) -> bool:
    """Whether something can be seen under the name."""
    try:
        os.stat(root / name)
    except OSError:
        return False
    return True


def expected(root: Path, before: Held, seen: Seen, drop_outside: bool) -> Held:
    """What an update must make of ``before``."""
    after = dict(seen.pictures)
    for name, digest in before.items():
        if name in after or name in seen.broken:
            continue
        if name.startswith("/"):
            if not (drop_outside and gone(root, name)):
                after[name] = digest
        elif name in seen.closed or not (gone(root, name) or reachable(root, name)):
            after[name] = digest
    return after
