"""Which images of a split can be used: those whose file is there and can be decoded.

Absence is normal where the originals were links; a few broken files are in every large collection.
The others are left out, counted and listed, or refused. Decoding is the wait, so it happens once:
who decodes anyway (the feature extractor) takes :func:`load_or_blank` and calls :func:`drop_broken`
afterwards; who does not calls :func:`find_broken` first. :func:`check_splits` looks at all of it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture
from udmsh_pl.images.image_list import SPLITS, ImageList, Splits
from udmsh_pl.images.names import listing, spelling
from udmsh_pl.images.protocol import Rows
from udmsh_pl.images.walk import SKIPPED, skipped_line
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.untrusted import exists, read_file

ABSENT = "no such image"
Reasons = dict[str, str]  # why a picture cannot be used, by its name


def present_rows(images: ImageList) -> Rows:
    """Rows whose file is there, ascending; listing a folder once beats asking for 200,000 files."""
    if images.pixels is not None:
        return np.arange(len(images))
    folders: dict[str, set[str]] = {}
    there: list[int] = []
    for row, name in enumerate(images.names):
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = listing((images.root or Path()) / folder)
        # the disk may answer to another spelling than it lists (letter case, Unicode forms)
        if file in folders[folder] or (bool(folders[folder]) and exists(images.path(row))):
            there.append(row)
    return np.asarray(there, dtype=np.int64)


def drop_missing(splits: Splits, allow_missing: bool) -> Splits:
    """Refuse splits whose images are not all there, or leave the absent ones out and count them.

    With ``allow_missing`` their numbers are added to ``missing`` and so enter the fingerprint.

    Raises ``InputError``: images are absent and ``allow_missing`` is false, or all of a split are.
    """
    named = splits.by_name()
    rows = {name: present_rows(images) for name, images in named.items()}
    absent = {
        name: np.setdiff1d(np.arange(len(images)), rows[name]) for name, images in named.items()
    }
    lost = [name for name, gone in absent.items() if len(gone)]
    if not lost:
        return splits
    counts = [f"{len(absent[name])} of {len(named[name])} {name} images" for name in lost]
    first = named[lost[0]].path(int(absent[lost[0]][0]))
    message = f"{splits.protocol}: {', '.join(counts)} are missing, first {first}"
    if cause := spelling(first):
        raise InputError(f"{message}: {cause}")
    home = f" (they come from {splits.protocol.home})" if splits.protocol.home else ""
    if not all(map(len, rows.values())):
        raise InputError(f"{message}; set --data.root to the folder of the images{home}")
    if not allow_missing:
        raise InputError(
            f"{message}; fetch them{home}, or go on without them with --data.allow_missing true "
            "(their numbers then enter the split's fingerprint)"
        )
    return _only(splits, rows)


def drop_broken(splits: Splits, broken: Mapping[str, str], strict: bool = False) -> Splits:
    """Leave unreadable pictures out of all splits and count them, or refuse them.

    ``broken`` holds reasons by name, of :func:`find_broken` or :func:`load_or_blank`. The numbers
    are added to ``missing`` and so enter the fingerprint, names and reasons to ``skipped``.

    Raises ``InputError``: pictures are broken and ``strict``, or all of a split are.
    """
    named = splits.by_name()
    rows = {
        split: np.flatnonzero([name not in broken for name in images.names])
        for split, images in named.items()
    }
    if all(len(rows[name]) == len(images) for name, images in named.items()):
        return splits
    what, line = splits.protocol, broken_line(broken)
    if strict:
        raise InputError(
            f"{what}: {line}; mend or remove them, or leave them out with --data.strict false"
        )
    if empty := [name for name in named if not len(rows[name])]:
        raise InputError(f"{what}: no {empty[0]} picture can be read; mend them: {line}")
    return replace(_only(splits, rows), skipped={**splits.skipped, **broken})


def _only(splits: Splits, rows: Mapping[str, Rows]) -> Splits:
    """The splits with these rows alone; those left out are added to ``missing``."""
    kept = splits.by_name()
    missing = {name: splits.missing.get(name, 0) for name in SPLITS}
    for name, images in splits.by_name().items():
        if len(rows[name]) < len(images):
            missing[name] += len(images) - len(rows[name])
            kept[name] = images.select(rows[name])
    database = kept["database"]
    train = database if splits.train is splits.database else kept["train"]
    return replace(splits, query=kept.get("query"), train=train, database=database, missing=missing)


def load_or_blank(
    images: ImageList, row: int, at_least: int | None = None
) -> tuple[Image.Image, str]:
    """The picture of a row and ``""``; or a black one and why there is none.

    Raises ``UnreadablePicture``: for a passing error (no memory, a disk that is away): the run ends
    and can be resumed.
    """
    try:
        return images.load(row, at_least), ""
    except UnreadablePicture as error:
        if not error.lasting:
            raise
        return Image.new("RGB", (8, 8)), error.reason


def find_broken(*lists: ImageList, workers: int = 0) -> Reasons:
    """Decode every picture once, with a progress bar, and give which cannot be, and why.

    ``workers`` processes decode, 0 or 1 for this one.
    """
    tasks: dict[Path, tuple[ImageList, int]] = {}
    for images in lists:
        for row in range(len(images)):
            tasks.setdefault(images.path(row), (images, row))
    dataset: Any = list(tasks.values())
    loader = DataLoader(dataset, 64, num_workers=workers if workers > 1 else 0, collate_fn=_reasons)
    broken: Reasons = {}
    with tqdm(total=len(tasks), unit="img", desc="decode every image") as bar:
        for found in loader:
            broken |= {name: why for name, why in found if why}
            bar.update(len(found))
    return broken


def _reasons(tasks: list[tuple[ImageList, int]]) -> list[tuple[str, str]]:
    """Names of pictures, and why each cannot be decoded, or nothing."""
    found = []
    for images, row in tasks:
        why = ""
        try:
            images.load(row)
        except UnreadablePicture as error:
            if not error.lasting and not error.absent:
                raise
            why = ABSENT if error.absent else error.reason
        found.append((images.names[row], why))
    return found


def broken_line(broken: Mapping[str, str], most: int = 3) -> str:
    """The count and the first few, in one line."""
    first = [f"{name} ({reason})" for name, reason in list(broken.items())[:most]]
    count = f"{len(broken)} picture{'s' if len(broken) > 1 else ''} cannot be read"
    return f"{count}: {', '.join(first)}{', ...' if len(broken) > most else ''}"


def broken_lines(broken: Reasons, images: ImageList, root: str = "--data.root") -> list[str]:
    """A line on each picture that cannot be read, with what mends it."""
    lines = []
    for name, reason in broken.items():
        path = (images.root or Path()) / name
        problem, mend = f"not a readable image ({reason})", "fetch that file again or remove it"
        if reason == ABSENT:
            problem, mend = reason, spelling(path) or f"set {root} to the folder that holds it"
        lines.append(f"{path}: {problem}; {mend}")
    return lines


def write_broken(path: Path, broken: Mapping[str, str]) -> None:
    """Write reasons by name as JSON, whole or not at all: ``broken.json`` beside a cache."""
    write_text(path, json.dumps(dict(broken), indent=1) + "\n")


def read_broken(path: Path) -> Reasons:
    """Read what :func:`write_broken` wrote; without the file nothing is broken."""
    if not path.exists():
        return {}
    data = read_file(path, "list of broken pictures")
    try:
        content: Reasons = json.loads(data)
        if not all(isinstance(one, str) for one in content.values()):
            raise TypeError("a reason is no text")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged; delete it, pictures are then decoded anew") from error
    return content


class Report(NamedTuple):
    """What :func:`check_splits` found."""

    # a line a split: images, images that the protocol names, missing and unreadable ones, labels,
    # labels an image, images without any label
    table: str
    # what is off, with what mends it; a file stands once, in however many splits it is
    problems: tuple[str, ...]
    notes: tuple[str, ...]  # what is worth knowing but not wrong
    fingerprint: str  # SHA-256 of the splits


def check_splits(splits: Splits, workers: int = 1) -> Report:
    """Decode every image by ``workers`` processes and compare the splits with their protocol.

    Presence, overlap of queries and database, and repeated names are checked where splits are made;
    this adds what costs time (decoding) and what a protocol promises (counts, labels that no image
    carries).
    """
    problems: list[str] = []
    notes: list[str] = []
    protocol = splits.protocol
    wanted = {"query": protocol.queries, "train": protocol.train, "database": protocol.database}
    broken = find_broken(*splits.by_name().values(), workers=workers)
    head = "split,images,protocol,missing,unreadable,labels,labels/image,without label"
    rows = [head.split(",")]
    for name, images in splits.by_name().items():
        missing, expected, count = splits.missing.get(name, 0), wanted[name], len(images)
        if expected is not None and count + missing != expected:
            problems.append(
                f"{name}: {count + missing} images where {protocol} has {expected}; complete the "
                "data, or name another protocol with --data.protocol"
            )
        if missing:
            notes.append(f"{name}: {missing} images are missing; this enters the fingerprint")
        bad, of = sum(one in broken for one in images.names), images.labels.sum(axis=1)
        rows.append([name, f"{count:,}", "any" if expected is None else f"{expected:,}"])
        rows[-1] += [f"{missing:,}", f"{bad:,}", f"{images.labels.shape[1]}", f"{of.mean():.2f}"]
        rows[-1].append(f"{int(np.count_nonzero(of == 0)):,}")
    problems += broken_lines(broken, splits.database)
    width = splits.database.labels.shape[1]
    if protocol.labels is not None and width != protocol.labels:
        problems.append(f"{width} labels where {protocol} has {protocol.labels}; take its lists")
    if splits.query is not None:
        labels, present = splits.query.labels, splits.database.labels.any(axis=0)
        if alone := int((labels.any(axis=1) & ~(labels @ present)).sum()):
            note = f"query: {alone} queries share no label with any database image; they score 0"
            notes.append(note)
        if bare := int((~labels.any(axis=1)).sum()):
            notes.append(f"query: {bare} queries have no label; they score 0")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return Report("\n".join(lines), tuple(problems), tuple(notes), splits.fingerprint())


def split_lines(splits: Splits, folder: Path) -> list[str]:
    """A line on the sizes of the splits, and one on what was left out and listed in ``folder``."""
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in splits.by_name().items())
    lines = [f"{splits.protocol.dataset}, protocol {splits.protocol_name}: {sizes} images"]
    if splits.skipped:
        lines.append(f"{skipped_line(splits.skipped)}; all are in {folder / SKIPPED}")
    return lines
