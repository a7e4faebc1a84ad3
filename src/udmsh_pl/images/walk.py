"""The one walk through a folder of pictures: what is a picture, and why the rest is left out."""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from udmsh_pl.images.decode import no_picture
from udmsh_pl.images.names import composed
from udmsh_pl.safe.files import csv_text, write_text

SKIPPED = "skipped.csv"
LINK, BROKEN = "a link to a folder", "a broken link"
NO_MEDIA = ".nomedia"  # phones show nothing of a folder that holds this file
# thumbnails, deleted files and snapshots of disk stations, systems and archives; in any letter case
SYSTEM_FOLDERS = {
    "@eadir", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "system volume information",
    "lost+found",
}  # fmt: skip
_NUMBERS = re.compile(r" \(\d[^()]*\)")  # "image file is truncated (22 bytes not processed)"


class Found(NamedTuple):
    """What lies in a folder."""

    # size, times and inode of each picture file, by its name relative to the folder, with forward
    # slashes; sorted
    files: dict[str, os.stat_result]
    # why everything else is left out, by name; a folder stands for all in it
    skipped: dict[str, str]

    def why(self, name: str) -> str:
        """Why a file is left out, itself or with a folder above it; nothing if it is not."""
        while name and name not in self.skipped:
            name = name.rpartition("/")[0]
        return self.skipped.get(name, "")


def walk(root: Path, below: str = "", exclude: Sequence[str] = ()) -> Found:
    """All files under ``root/below``, and which of them are pictures.

    The ending decides, for the formats of :mod:`udmsh_pl.images.decode`. Hidden files and folders,
    folders of systems (``@eaDir``, ``$RECYCLE.BIN``), folders below ``root`` that hold
    ``.nomedia``, links to folders, what is no regular file, and what fits a pattern of ``exclude``
    (:func:`excluded`) are left out.
    """
    files: dict[str, os.stat_result] = {}
    skipped: dict[str, str] = {}

    def closed(error: OSError) -> None:
        skipped[_relative(error.filename, root)] = f"cannot be opened ({error.strerror})"

    for folder, folders, names in os.walk(root / below, onerror=closed):
        place = _relative(folder, root)
        prefix = f"{place}/" if place else ""
        if NO_MEDIA in names and place not in ("", below):
            skipped[place] = f"a folder with {NO_MEDIA}"
            folders.clear()
            continue
        for name in list(folders):
            if reason := _why_no_folder(folder, name) or excluded(prefix + name, exclude):
                skipped[prefix + name] = reason
                folders.remove(name)
        for name in names:
            reason = "hidden" if name.startswith(".") else _why_no_picture(folder, name)
            facts = reason or excluded(prefix + name, exclude) or _facts(folder, name)
            if isinstance(facts, str):
                skipped[prefix + name] = facts
            else:
                files[prefix + name] = facts
    return Found(dict(sorted(files.items())), dict(sorted(skipped.items())))


def excluded(name: str, patterns: Sequence[str]) -> str:
    """``excluded by PATTERN`` with the first pattern that a file or folder fits, or nothing.

    A pattern is that of a shell (``*``, ``?``, ``[ab]``). With a slash it is held against the name
    relative to the root (``2019/*.png``), without one against the last part of it (``*.png``,
    ``Screenshots``).
    """
    whole = composed(name)
    last = whole.rpartition("/")[2]
    for pattern in patterns:
        wanted = composed(pattern).strip("/")
        if fnmatchcase(whole if "/" in wanted else last, wanted):
            return f"excluded by {pattern}"
    return ""


def skipped_line(skipped: Mapping[str, str], most: int = 3) -> str:
    """What was left out, in one line: a count and the first few names for each kind of reason."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(_NUMBERS.sub("", reason), []).append(name)
    lines = [
        f"{len(found)} {reason} ({', '.join(found[:most])}{', ...' if len(found) > most else ''})"
        for reason, found in sorted(names.items(), key=lambda one: -len(one[1]))
    ]
    return f"{len(skipped)} left out: {'; '.join(lines)}" if lines else "nothing left out"


def write_skipped(skipped: Mapping[str, str], folder: Path) -> None:
    """Write ``skipped.csv``: name and reason of each file that was left out; none, no file."""
    if not skipped:
        (folder / SKIPPED).unlink(missing_ok=True)
        return
    text = csv_text([("name", "reason"), *skipped.items()])
    # names need not be UTF-8
    write_text(folder / SKIPPED, text.encode(errors="backslashreplace").decode())


def _why_no_folder(folder: str, name: str) -> str:
    if name.startswith("."):
        return "hidden"
    if name.lower() in SYSTEM_FOLDERS:
        return "a folder of the system"
    return LINK if os.path.islink(os.path.join(folder, name)) else ""  # noqa: PTH114, PTH118


def _why_no_picture(folder: str, name: str) -> str:
    # a Path takes ten times as long
    ending = os.path.splitext(name)[1].lower().rstrip(".")  # noqa: PTH122
    reason = no_picture(ending)
    path = os.path.join(folder, name)  # noqa: PTH118
    broken = reason and os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114
    return BROKEN if broken else reason


def _facts(folder: str, name: str) -> os.stat_result | str:
    path = os.path.join(folder, name)  # noqa: PTH118
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError as error:
        broken = os.path.islink(path)  # noqa: PTH114
        return BROKEN if broken else f"cannot be opened ({error.strerror})"
    return facts if stat.S_ISREG(facts.st_mode) else "no regular file"


def _relative(path: str, root: Path) -> str:
    name = os.path.relpath(path, root)
    return "" if name == "." else Path(name).as_posix()
