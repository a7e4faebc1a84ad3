"""Pictures that cannot be decoded: left out with a list and a count, or refused.

Decoding is the wait, so it happens once. Who decodes anyway (the feature extractor) takes
:func:`load_or_blank`, keeps what it says beside the cache (:func:`write_broken`), and calls
:func:`drop_broken` afterwards; who does not calls :func:`find_broken` first.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.untrusted import read_file

ABSENT = "no such image"
Reasons = dict[str, str]  # why a picture cannot be used, by its name


def load_or_blank(images: ImageList, row: int) -> tuple[torch.Tensor, str]:
    """The picture of a row, uint8 [3, H, W], and ``""``; or a black one and why there is none.

    Raises:
        UnreadablePicture: for a passing error (no memory, a disk that is away): the picture may be
            whole, so the run ends and can be resumed.
    """
    try:
        return images.load_tensor(row), ""
    except UnreadablePicture as error:
        if not error.lasting:
            raise
        return torch.zeros(3, 8, 8, dtype=torch.uint8), error.reason


def find_broken(images: ImageList, workers: int = 0) -> Reasons:
    """Decode every picture, with a progress bar, and tell which cannot be.

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


def usable_rows(images: ImageList, broken: Mapping[str, str]) -> NDArray[np.int64]:
    """Rows that are not among the broken ones, ascending."""
    kept = [row for row, name in enumerate(images.names) if name not in broken]
    return np.asarray(kept, dtype=np.int64)


def drop_broken(splits: Splits, broken: Mapping[str, str], strict: bool = False) -> Splits:
    """Leave unreadable pictures out of all splits, told and counted, or refuse them.

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
    lost = {name: len(images) - len(rows[name]) for name, images in named.items()}
    if not any(lost.values()):
        return splits
    label = f"{splits.protocol.dataset} {splits.protocol.name}"
    told = told_broken(broken)
    if strict:
        raise InputError(
            f"{label}: {told}; mend or remove them, or leave them out with --data.strict false"
        )
    empty = [name for name, images in named.items() if lost[name] == len(images)]
    if empty:
        raise InputError(f"{label}: no picture of the {empty[0]} split can be read; {told}")
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
        skipped={**splits.skipped, **broken},
    )


def told_broken(broken: Mapping[str, str], most: int = 3) -> str:
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
        except InputError as error:  # a damaged file of packed images
            return str(error)
        return ""
