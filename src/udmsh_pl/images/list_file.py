"""List files, ``path 0 1 0 ...`` a line: the form in which this field hands its splits around."""

import codecs
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits, inside, normal
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.safe.files import atomic_path
from udmsh_pl.safe.untrusted import limit, over, read_file

_BLANK = b" \t\r"
_LABELS_BACKWARDS = re.compile(rb"(?:[01][ \t]+)*")  # forwards, a long line takes its square
_OTHER_SEPARATOR = re.compile(rb"([,;|])[ \t]*[01]$")
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?")  # a last word that was surely meant to be a label


def read_list(
    path: Path,
    root: Path | None = None,
    labels: int | Literal["any"] | None = None,
    allow_outside: bool = False,
    upright: bool = True,
) -> ImageList:
    """Read a list file: UTF-8 (or UTF-16 with its mark), one image a line, its path and then a 0 or
    1 for each label, set apart by blanks; images in the order of the lines.

    Paths may hold spaces (not a bare number as their last word), lines may end in CRLF, and blank
    lines count for nothing. Anything else is refused, so that a list never gives silently fewer
    rows or labels than it has. ``./a//b.jpg`` becomes ``a/b.jpg``, and an absolute path below
    ``root`` relative to it, so that a file has one name.

    Args:
        path: the list file
        root: folder that the paths are relative to
        labels: number of labels that each line must have, 0 for bare paths; None to take it from
            the file, "any" to let that be 0 too
        allow_outside: let paths pass that lead out of ``root``
        upright: see :class:`ImageList`

    Raises ``InputError``: the file is absent, empty, not UTF-8 or too large (``UDMSH_MAX_BYTES``,
    ``UDMSH_MAX_ROWS``), or a line has another number of labels, a label that is not 0 or 1, no
    path, one that leads out of ``root``, or an earlier line's; the message has the line.
    """
    data = _utf8(read_file(path, "list"), path)
    if data.count(b"\n") > limit("ROWS"):
        raise InputError(f"{path}: {over('ROWS')}")
    stripped = (line.strip(_BLANK) for line in data.split(b"\n"))
    numbered = [(number, line) for number, line in enumerate(stripped, 1) if line]
    if not numbered:
        raise InputError(f"{path}: the list is empty; expected lines of `path 0 1 0 ...`")
    # labels of most of the first lines, so that an error names the odd line out
    counts = Counter(len(_labels_of(line).split()) for _, line in numbered[:101])
    width = labels if isinstance(labels, int) else counts.most_common(1)[0][0]
    if width == 0 and labels is None:
        raise InputError(
            f"{path}:{numbered[0][0]}: expected `path 0 1 0 ...`, found no label (0 or 1) after "
            f"the path{_other_separator(numbered[0][1])}"
        )
    bits: list[bytes] = []
    seen: dict[str, int] = {}  # names, and their lines
    for number, line in numbered:
        written, values = _split(path, number, line, width)
        try:
            name = inside(written.decode(), root, allow_outside, f"{path}:{number}")
        except UnicodeDecodeError as error:
            problem = f"{path}:{number}: byte {written[error.start]:#04x} is not UTF-8"
            raise InputError(f"{problem}; save the list with UTF-8 encoding") from error
        if (first := seen.setdefault(name, number)) != number:
            problem = f"{path}:{number}: {_show(written)} is already on line {first}"
            raise InputError(f"{problem}; remove one of the two lines")
        bits.append(values)
    table = np.frombuffer(b"".join(bits), np.uint8).reshape(len(seen), width) == ord("1")
    return ImageList(list(seen), table, root, source=str(path), upright=upright)


def read_splits(folder: Path, root: Path, protocol: Protocol) -> Splits:
    """Read a benchmark's split from ``query.txt`` (or ``test.txt``), ``train.txt`` and
    ``database.txt`` of a folder; each line has the protocol's number of labels.
    """
    query = folder / "query.txt"
    paths = (query if query.is_file() else folder / "test.txt", folder / "train.txt")
    queries, train, database = (
        read_list(path, root, protocol.labels, upright=False)
        for path in (*paths, folder / "database.txt")
    )
    return Splits(protocol, queries, train, database)


def write_list(images: ImageList, path: Path) -> None:
    """Write a list file, whole or not at all, that :func:`read_list` reads back to the same rows
    and fingerprint; refuses names as :func:`check_names`.
    """
    check_names(images, path)
    with atomic_path(path) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in images.lines()))


def check_names(images: ImageList, path: Path) -> None:
    """Refuse names that cannot stand in the list file ``path``: with a line break, blanks at their
    ends, bytes that are not UTF-8, another spelling than the one that they would be read back with
    (``./a.jpg``), or (where labels follow) a bare number as their last word.
    """
    for name in images.names:
        try:
            encoded = name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path}: the name {name!r} is not UTF-8; rename the file") from error
        odd = normal(name) != name or any(mark in name for mark in "\n\r\0\ufeff")
        number = bool(images.labels.shape[1]) and _ends_in_number(encoded)
        if odd or encoded != encoded.strip(_BLANK) or number:
            raise InputError(f"{path}: the name {name!r} cannot stand in a list file; rename it")


def _split(path: Path, number: int, line: bytes, width: int) -> tuple[bytes, bytes]:
    """Path and labels (``b"010"``) of one line."""
    cut = len(line) - 2 * width
    name, values = line[:cut].rstrip(_BLANK), line[cut + 1 :: 2]
    # the usual form, one blank before each label, needs no regular expression, which makes it fast
    if cut <= 0 or line[cut::2] != b" " * width or values.strip(b"01"):
        run = _labels_of(line)
        name, values = line[: len(line) - len(run)], b"".join(run.split())
    if len(values) != width or not name or (width and _ends_in_number(name)):
        last = _show(name.split(b" ")[-1]) if name else "no path"
        raise InputError(
            f"{path}:{number}: expected a path and {width} labels (0 or 1), found {last} and "
            f"{len(values)} labels in {_show(line)}{_other_separator(line)}"
        )
    if b"\0" in name or b"\r" in name:
        mend = "save the list as plain UTF-8 text"
        raise InputError(f"{path}:{number}: a control character in {_show(name)}; {mend}")
    return name, values


def _utf8(data: bytes, path: Path) -> bytes:
    """The text of a list as UTF-8 without its mark; UTF-16 is known by its own."""
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-16").encode()
    except UnicodeError as error:
        raise InputError(f"{path}: UTF-16 that is cut or damaged; save it with UTF-8") from error


def _other_separator(line: bytes) -> str:
    """What an error adds where labels stand, but not behind blanks."""
    if found := _OTHER_SEPARATOR.search(line):
        return f"; {found[1].decode()!r} sets the labels apart: replace each by a blank"
    return ""


def _labels_of(line: bytes) -> bytes:
    """The end of a stripped line that is nothing but blanks and labels."""
    found = _LABELS_BACKWARDS.match(line[::-1])
    return found[0][::-1] if found else b""


def _ends_in_number(name: bytes) -> bool:
    return bool(_NUMBER.fullmatch(name[max(name.rfind(b" "), name.rfind(b"\t")) + 1 :]))


def _show(text: bytes, limit: int = 60) -> str:
    shown = text.decode("utf-8", "backslashreplace")
    return repr(shown if len(shown) <= limit else shown[:limit] + "...")
