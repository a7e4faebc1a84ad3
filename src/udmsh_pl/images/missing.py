"""Images that a benchmark names and a disk lacks: normal where the originals were links."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.safe.untrusted import exists


def present_rows(images: ImageList) -> NDArray[np.int64]:
    """Rows whose file is there, ascending.

    Each folder is listed once, which beats asking for 200,000 files one by one.

    A file that is there may still be unreadable; only :func:`udmsh_pl.images.check.check_splits`
    decodes all.
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
    label = f"{splits.protocol.dataset} {splits.protocol.name}"
    if any(count == len(named[name]) for name, count in absent.items()):
        raise InputError(
            f"{label}: {counts} are missing, first {first}; set --data.root to the folder of the "
            f"images{_where(splits)}"
        )
    if not allow_missing:
        raise InputError(
            f"{label}: {counts} are missing, first {first}; fetch them{_where(splits)}, or go on "
            "without them with "
            "--data.allow_missing true (their numbers then enter the split's fingerprint)"
        )
    kept = {
        name: images.select(rows[name]) if absent[name] else images
        for name, images in named.items()
    }
    if splits.train is splits.database:
        kept["train"] = kept["database"]
    counted = {
        name: absent.get(name, 0) + splits.missing.get(name, 0)
        for name in ("query", "train", "database")
    }
    return replace(
        splits,
        query=kept.get("query"),
        train=kept["train"],
        database=kept["database"],
        missing=counted,
    )


def _where(splits: Splits) -> str:
    return f" (they come from {splits.protocol.home})" if splits.protocol.home else ""


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return set()
