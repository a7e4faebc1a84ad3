"""Which images of a split can be used: those whose file is there and can be decoded.

Absence is normal where the originals were links; a few broken files are in every large collection.
The others are left out, counted and listed, or refused. Decoding is the wait, so it happens once:
who decodes anyway (the feature extractor) takes :func:`load_or_blank` and calls :func:`drop_broken`
afterwards; who does not calls :func:`find_broken` first.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.names import spelling
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.untrusted import exists, read_file

ABSENT = "no such image"
Reasons = dict[str, str]  # why a picture cannot be used, by its name
Rows = NDArray[np.int64]


def present_rows(images: ImageList) -> Rows:
    """Rows whose file is there, ascending.

    Each folder is listed once, which beats asking for 200,000 files one by one.
    """
    if images.pixels is not None:
        return np.arange(len(images))
    folders: dict[str, set[str]] = {}
    there: list[int] = []
    for row, name in enumerate(images.names):
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = _listing((images.root or Path()) / folder)
        # A listing may spell a name otherwise than the disk answers to it (letter case, Unicode
        # forms): ask then.
        if file in folders[folder] or (bool(folders[folder]) and exists(images.path(row))):
            there.append(row)
    return np.asarray(there, dtype=np.int64)


def usable_rows(images: ImageList, broken: Mapping[str, str]) -> Rows:
    """Rows that are not among the broken ones, ascending."""
    kept = [row for row, name in enumerate(images.names) if name not in broken]
    return np.asarray(kept, dtype=np.int64)


def drop_missing(splits: Splits, allow_missing: bool) -> Splits:
    """Refuse splits whose images are not all there, or leave the absent ones out and count them.

    Args:
        splits: splits as the protocol names them.
        allow_missing: leave absent images out; their numbers are added to ``missing`` and so enter
            the fingerprint.

    Returns:
        Splits of images that are there; ``splits`` itself when nothing is absent.

    Raises:
        InputError: images are absent and ``allow_missing`` is false, or all of a split are.
    """
    named = splits.by_name()
    rows = {name: present_rows(images) for name, images in named.items()}
    absent = {name: len(images) - len(rows[name]) for name, images in named.items()}
    if not any(absent.values()):
        return splits
    counts = ", ".join(
        f"{count} of {len(named[name])} {name} images" for name, count in absent.items() if count
    )
    first = next(
        images.path(row)
        for name, images in named.items()
        for row in np.setdiff1d(np.arange(len(images)), rows[name])[:1].tolist()
    )
    message = f"{_label(splits)}: {counts} are missing, first {first}"
    if cause := spelling(first):
        raise InputError(f"{message}: {cause}")
    home = f" (they come from {splits.protocol.home})" if splits.protocol.home else ""
    if any(count == len(named[name]) for name, count in absent.items()):
        raise InputError(f"{message}; set --data.root to the folder of the images{home}")
    if not allow_missing:
        raise InputError(
            f"{message}; fetch them{home}, or go on without them with --data.allow_missing true "
            "(their numbers then enter the split's fingerprint)"
        )
    return _only(splits, rows)


def drop_broken(splits: Splits, broken: Mapping[str, str], strict: bool = False) -> Splits:
    """Leave unreadable pictures out of all splits and count them, or refuse them.

    Args:
        splits: splits as they were read.
        broken: reasons by name, of :func:`find_broken` or :func:`load_or_blank`.
        strict: refuse instead.

    Returns:
        Splits without them; their numbers are added to ``missing`` and so enter the fingerprint,
        their names and reasons to ``skipped``. ``splits`` itself when none is broken.

    Raises:
        InputError: pictures are broken and ``strict``, or all of a split are.
    """
    named = splits.by_name()
    rows = {name: usable_rows(images, broken) for name, images in named.items()}
    if all(len(rows[name]) == len(images) for name, images in named.items()):
        return splits
    if strict:
        raise InputError(
            f"{_label(splits)}: {broken_line(broken)}; mend or remove them, or leave them out with "
            "--data.strict false"
        )
    empty = [name for name in named if not len(rows[name])]
    if empty:
        raise InputError(
            f"{_label(splits)}: no picture of the {empty[0]} split can be read; "
            f"{broken_line(broken)}"
        )
    return replace(_only(splits, rows), skipped={**splits.skipped, **broken})


def load_or_blank(
    images: ImageList, row: int, at_least: int | None = None
) -> tuple[Image.Image, str]:
    """The picture of a row and ``""``; or a black one and why there is none.

    Raises:
        UnreadablePicture: for a passing error (no memory, a disk that is away): the picture may be
            whole, so the run ends and can be resumed.
    """
    try:
        return images.load(row, at_least), ""
    except UnreadablePicture as error:
        if not error.lasting:
            raise
        return Image.new("RGB", (8, 8)), error.reason


def find_broken(images: ImageList, workers: int = 0) -> Reasons:
    """Decode every picture, with a progress bar, and give which cannot be, and why.

    Args:
        images: the pictures.
        workers: processes that decode; 0 or 1 decodes in this one.
    """
    return _decode_all([(images, row) for row in range(len(images))], workers)


def find_broken_in(splits: Splits, workers: int = 0) -> Reasons:
    """:func:`find_broken` of all splits; a picture that stands in two of them is decoded once."""
    tasks: dict[Path, tuple[ImageList, int]] = {}
    for images in splits.by_name().values():
        for row, name in enumerate(images.names):
            tasks.setdefault((images.root or Path()) / name, (images, row))
    return _decode_all(list(tasks.values()), workers)


def broken_line(broken: Mapping[str, str], most: int = 3) -> str:
    """The count and the first few, in one line."""
    first = [f"{name} ({reason})" for name, reason in list(broken.items())[:most]]
    count = f"{len(broken)} picture{'s' if len(broken) > 1 else ''} cannot be read"
    return f"{count}: {', '.join(first)}{', ...' if len(broken) > most else ''}"


def write_broken(path: Path, broken: Mapping[str, str]) -> None:
    """Write reasons by name as JSON, whole or not at all: ``broken.json`` beside a cache."""
    write_text(path, json.dumps(dict(broken), indent=1) + "\n")


def read_broken(path: Path) -> Reasons:
    """Read what :func:`write_broken` wrote; without the file nothing is broken.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content: Any = json.loads(read_file(path, "list of broken pictures"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged; delete it, pictures are then decoded anew") from error
    if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()):
        raise InputError(f"{path}: damaged; delete it, pictures are then decoded anew")
    return content


def _label(splits: Splits) -> str:
    return f"{splits.protocol.dataset} {splits.protocol.name}"


def _only(splits: Splits, rows: Mapping[str, Rows]) -> Splits:
    """The splits with these rows alone; those left out are added to ``missing``."""
    named = splits.by_name()
    lost = {name: len(images) - len(rows[name]) for name, images in named.items()}
    kept = {
        name: images.select(rows[name]) if lost[name] else images for name, images in named.items()
    }
    if splits.train is splits.database:
        kept["train"] = kept["database"]
    missing = {
        name: lost.get(name, 0) + splits.missing.get(name, 0)
        for name in ("query", "train", "database")
    }
    return replace(
        splits,
        query=kept.get("query"),
        train=kept["train"],
        database=kept["database"],
        missing=missing,
    )


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return set()


def _decode_all(tasks: list[tuple[ImageList, int]], workers: int) -> Reasons:
    loader = DataLoader(
        _Reasons(tasks), 64, num_workers=workers if workers > 1 else 0, collate_fn=list
    )
    reasons: list[str] = []
    with tqdm(total=len(tasks), unit="img", desc="decode every image") as bar:
        for batch in loader:
            reasons += batch
            bar.update(len(batch))
    return dict(_bad(tasks, reasons))


def _bad(
    tasks: Iterable[tuple[ImageList, int]], reasons: Iterable[str]
) -> Iterable[tuple[str, str]]:
    for (images, row), reason in zip(tasks, reasons, strict=True):
        if reason:
            yield images.names[row], reason


class _Reasons(Dataset[str]):
    """Why the picture of each (list, row) cannot be decoded, or nothing."""

    def __init__(self, tasks: list[tuple[ImageList, int]]) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, item: int) -> str:
        images, row = self.tasks[item]
        try:
            images.load(row)
        except UnreadablePicture as error:
            if error.absent:
                return ABSENT
            if not error.lasting:
                raise
            return error.reason
        return ""
