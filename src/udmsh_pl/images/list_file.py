"""List files, ``path 0 1 0 ...`` a line: the form in which this field hands its splits around."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.files import atomic_path
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol

_BLANK = b" \t\r"
_LABELS = re.compile(rb"((?:[ \t]+[01])*)[ \t]*$")
_NUMBER = re.compile(
    rb"(?:^|[ \t])[-+]?\d+(?:\.\d*)?$"
)  # a path's last word that was surely meant to be a label


def read_list(path: Path, root: Path | None = None, labels: int | None = None) -> ImageList:
    """Read a list file: UTF-8, an image a line, its path, then a 0 or 1 a label, between blanks.

    Paths may hold spaces (not a bare number as their last word), lines may end in CRLF, and blank
    lines count for nothing. Anything else is refused, so that a list never gives silently fewer
    rows or labels than it has.

    Args:
        path: the list file.
        root: folder that the paths are relative to.
        labels: number of labels that each line must have, 0 for bare paths; None to take it from
            the file.

    Returns:
        The images in the order of the lines.

    Raises:
        InputError: the file is absent, empty, not UTF-8, or a line has another number of labels, a
            label that is not 0 or 1, no path, or the path of an earlier line; the message gives
            file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot read this list ({error.strerror}); give the path of a list file"
        ) from error
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [
        (number, line)
        for number, line in enumerate((line.strip(_BLANK) for line in lines), 1)
        if line
    ]
    if not numbered:
        raise InputError(f"{path}: the list is empty; expected lines of `path 0 1 0 ...`")
    width = _common_width([line for _, line in numbered]) if labels is None else labels
    if width == 0 and labels is None:
        raise InputError(
            f"{path}:{numbered[0][0]}: expected `path 0 1 0 ...`, found no label (0 or 1) after "
            "the path"
        )
    names: list[str] = []
    bits: list[bytes] = []
    seen: dict[bytes, int] = {}
    for number, line in numbered:
        name, values = _split(path, number, line, width)
        first = seen.setdefault(name, number)
        if first != number:
            raise InputError(
                f"{path}:{number}: {_show(name)} is already on line {first}; remove one of the two "
                "lines"
            )
        try:
            names.append(name.decode())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}:{number}: byte {name[error.start]:#04x} is not UTF-8; save the list with "
                "UTF-8 encoding"
            ) from error
        bits.append(values)
    table = np.frombuffer(b"".join(bits), np.uint8).reshape(len(names), width) == ord("1")
    return ImageList(names=names, labels=table, root=root, source=str(path))


def read_splits(folder: Path, root: Path, protocol: Protocol) -> Splits:
    """Read a split: ``test.txt`` (or ``query.txt``), ``train.txt``, ``database.txt`` of a folder.

    Args:
        folder: folder of the lists.
        root: folder that the paths in the lists are relative to.
        protocol: facts of the split; its number of labels is what each line must have.

    Raises:
        InputError: as :func:`read_list`, and for splits that overlap.
    """
    query = folder / "query.txt"
    if not query.is_file():
        query = folder / "test.txt"
    paths = (query, folder / "train.txt", folder / "database.txt")
    queries, train, database = (read_list(path, root, protocol.labels) for path in paths)
    return Splits(protocol, queries, train, database)


def write_list(images: ImageList, path: Path) -> None:
    """Write a list file, whole or not at all.

    :func:`read_list` reads it back to the same rows and fingerprint.

    Raises:
        InputError: as :func:`check_names`.
    """
    check_names(images, path)
    with atomic_path(path) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in images.lines()))


def check_names(images: ImageList, path: Path) -> None:
    """Refuse names that cannot stand in the list file ``path``.

    Raises:
        InputError: a name has a line break, blanks at its ends, bytes that are not UTF-8, or (where
            labels follow) a bare number as its last word.
    """
    for name in images.names:
        try:
            encoded = name.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}: the name {name!r} is not UTF-8; rename that image"
            ) from error
        broken = (
            not name
            or encoded != encoded.strip(_BLANK)
            or any(mark in name for mark in "\n\r\0\ufeff")
        )
        if broken or (images.labels.shape[1] and _NUMBER.search(encoded)):
            raise InputError(
                f"{path}: the name {name!r} cannot stand in a list file; rename that image"
            )


def _split(path: Path, number: int, line: bytes, width: int) -> tuple[bytes, bytes]:
    """Path and labels (``b"010"``) of one line."""
    cut = len(line) - 2 * width
    name, values = line[:cut].rstrip(_BLANK), line[cut + 1 :: 2]
    # The usual form, one blank before each label, needs no regular expression; this is what makes
    # it fast.
    if cut <= 0 or line[cut::2] != b" " * width or values.strip(b"01"):
        found = _LABELS.search(line)
        run = found[1] if found else b""
        name, values = line[: len(line) - len(run)], b"".join(run.split())
    if len(values) != width or not name or (width and _NUMBER.search(name)):
        last = _show(name.split(b" ")[-1]) if name else "no path"
        raise InputError(
            f"{path}:{number}: expected a path and {width} labels (0 or 1), "
            f"found {last} and {len(values)} labels in {_show(line)}"
        )
    if b"\0" in name or b"\r" in name:
        raise InputError(
            f"{path}:{number}: a control character in {_show(name)}; save the list as plain UTF-8 "
            "text"
        )
    return name, values


def _common_width(lines: list[bytes]) -> int:
    """Labels that most of the first lines have, so that an error names the odd line out."""
    counts: Counter[int] = Counter()
    for line in lines[:101]:
        found = _LABELS.search(line)
        counts[len(found[1].split()) if found else 0] += 1
    return counts.most_common(1)[0][0]


def _show(text: bytes, limit: int = 60) -> str:
    shown = text.decode("utf-8", "backslashreplace")
    return repr(shown if len(shown) <= limit else shown[:limit] + "...")
