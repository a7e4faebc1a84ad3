"""The one walk through a folder of pictures: what is a picture, and why the rest is left out."""

import csv
import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from udmsh_pl.images.decode import no_picture
from udmsh_pl.safe.files import write_text

SKIPPED = "skipped.csv"
# folders of cloud clients, archives and systems: thumbnails, deleted files
SYSTEM_FOLDERS = {"@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX"}
_NUMBERS = re.compile(r" \(\d[^()]*\)")  # "image file is truncated (22 bytes not processed)"


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Args:
        files: size, times and inode of each picture file, by its name relative to the folder,
            with forward slashes; sorted.
        skipped: everything else, by name: why it is left out. A folder that is left out stands for
            all in it.
    """

    files: dict[str, os.stat_result]
    skipped: dict[str, str]


def walk(root: Path, below: str = "") -> Found:
    """All files under ``root/below``, and which of them are pictures.

    The ending decides, for the formats of :mod:`udmsh_pl.images.decode`. Hidden files and folders,
    folders of systems (``@eaDir``, ``$RECYCLE.BIN``), links to folders, and what is no regular file
    are left out.
    """
    files: dict[str, os.stat_result] = {}
    skipped: dict[str, str] = {}

    def closed(error: OSError) -> None:
        skipped[_relative(error.filename, root)] = f"cannot be opened ({error.strerror})"

    for folder, folders, names in os.walk(root / below, onerror=closed):
        place = _relative(folder, root)
        prefix = f"{place}/" if place else ""
        for name in list(folders):
            reason = _why_no_folder(folder, name)
            if reason:
                skipped[prefix + name] = reason
                folders.remove(name)
        for name in names:
            reason = "hidden" if name.startswith(".") else no_picture(Path(name).suffix.lower())
            facts = reason or _facts(folder, name)
            if isinstance(facts, str):
                skipped[prefix + name] = facts
            else:
                files[prefix + name] = facts
    return Found(dict(sorted(files.items())), dict(sorted(skipped.items())))


def skipped_line(skipped: Mapping[str, str], most: int = 3) -> str:
    """What was left out, in one line: a count for each kind of reason, and the first few names of
    each.
    """
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(_NUMBERS.sub("", reason), []).append(name)
    lines = []
    for reason, found in sorted(names.items(), key=lambda one: -len(one[1])):
        more = ", ..." if len(found) > most else ""
        lines.append(f"{len(found)} {reason} ({', '.join(found[:most])}{more})")
    return f"{len(skipped)} left out: {'; '.join(lines)}" if lines else "nothing left out"


def write_skipped(skipped: Mapping[str, str], folder: Path) -> None:
    """Write ``skipped.csv``: name and reason of each file that was left out; none, no file."""
    if not skipped:
        (folder / SKIPPED).unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "reason"))
    writer.writerows(skipped.items())
    # names need not be UTF-8
    write_text(folder / SKIPPED, text.getvalue().encode(errors="backslashreplace").decode())


def _why_no_folder(folder: str, name: str) -> str:
    if name.startswith("."):
        return "hidden"
    if name in SYSTEM_FOLDERS:
        return "a folder of the system"
    return "a link to a folder" if os.path.islink(os.path.join(folder, name)) else ""  # noqa: PTH114, PTH118


def _facts(folder: str, name: str) -> os.stat_result | str:
    path = os.path.join(folder, name)  # noqa: PTH118
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError as error:
        broken = os.path.islink(path)  # noqa: PTH114
        return "a broken link" if broken else f"cannot be opened ({error.strerror})"
    return facts if stat.S_ISREG(facts.st_mode) else "no regular file"


def _relative(path: str, root: Path) -> str:
    name = os.path.relpath(path, root)
    return "" if name == "." else Path(name).as_posix()
