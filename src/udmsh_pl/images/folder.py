"""Directories of pictures: which files are images, and which splits their folders make."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import no_picture
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.split import draw
from udmsh_pl.safe.untrusted import limit

FolderLabels = Literal["folders", "none"]
SPLITS = ("query", "train", "database")
_NUMBERS = re.compile(r" \(\d[^()]*\)")  # "image file is truncated (22 bytes not processed)"


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Args:
        names: image files, relative to the folder that was looked through, sorted.
        skipped: everything else, by name: why it is left out. A folder that is left out stands for
            all in it.
    """

    names: list[str]
    skipped: dict[str, str]


def look_through(root: Path, below: str = "") -> Found:
    """All files under ``root/below``, and which of them are images.

    What is an image is told by the ending, for the formats of :mod:`udmsh_pl.images.decode`. Hidden
    files and folders, links to folders, and what is no regular file are left out.
    """
    names: list[str] = []
    skipped: dict[str, str] = {}

    def closed(error: OSError) -> None:
        skipped[_relative(error.filename, root)] = f"cannot be opened ({error.strerror})"

    for folder, folders, files in os.walk(root / below, onerror=closed):
        place = _relative(folder, root)
        for name in list(folders):
            inner = f"{place}/{name}" if place else name
            if name.startswith(".") or os.path.islink(os.path.join(folder, name)):  # noqa: PTH114, PTH118
                skipped[inner] = "hidden" if name.startswith(".") else "a link to a folder"
                folders.remove(name)
        for name in files:
            inner = f"{place}/{name}" if place else name
            reason = _why_not(Path(folder) / name)
            if reason:
                skipped[inner] = reason
            else:
                names.append(inner)
    return Found(sorted(names), dict(sorted(skipped.items())))


def find_images(root: Path, below: str = "") -> list[str]:
    """Names of all image files under ``root/below``, relative to ``root``, sorted; see
    :func:`look_through`, which also tells what was left out.
    """
    return look_through(root, below).names


def told_skipped(skipped: Mapping[str, str], most: int = 3) -> str:
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


def load_tree(
    root: Path, query_share: float, split_seed: int, labels: FolderLabels = "folders"
) -> Splits:
    """Splits of a directory of images.

    With ``labels="folders"``:

    - ``root/query/<class>/...``, ``root/database/<class>/...`` and, if there is,
      ``root/train/<class>/...``: as they are; without ``train``, the database is the train set.
    - ``root/<class>/...`` else: a share of the images, drawn by the seed, are the queries.
    - images without class folders: no labels and no queries, all are train and database.

    With ``labels="none"`` (albums) all images below ``root``, wherever they lie, are train and
    database; there are no labels and no queries.

    What was left out stands in ``skipped``.

    Args:
        root: the folder.
        query_share: share of the images that are queries where nothing says which.
        split_seed: decides which.
        labels: ``folders`` names a class by each folder; ``none`` gives no labels.

    Raises:
        InputError: no such folder, no images in it, or images that lie beside the class folders.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.root to the folder of your images")
    if labels == "folders" and (root / "query").is_dir() and (root / "database").is_dir():
        return _as_named(root)
    found = look_through(root)
    names, skipped = found.names, found.skipped
    if not names:
        raise InputError(
            f"{root}: no images here ({told_skipped(skipped)}); set --data.root to the folder of "
            "your images"
        )
    if labels == "none" or not any("/" in name for name in names):
        images = ImageList(names, np.zeros((len(names), 0), dtype=np.bool_), root, source=str(root))
        return Splits(folder_protocol("unlabelled"), None, images, images, skipped=skipped)
    everything = _labelled(root, names, sorted({_class(root, name, 0) for name in names}), 0)
    if not 0 < query_share < 1:
        raise InputError(
            f"--data.query_share is {query_share}; give a share of the images above 0 and below 1"
        )
    count = max(1, round(query_share * len(names)))
    rows = draw(np.arange(len(names)), {"query": count}, split_seed)
    database = everything.select(rows["rest"])
    return Splits(
        folder_protocol(f"folders-{query_share:g}-seed{split_seed}"),
        everything.select(rows["query"]),
        database,
        database,
        skipped=skipped,
    )


def _as_named(root: Path) -> Splits:
    found = {name: look_through(root, name) for name in SPLITS if (root / name).is_dir()}
    parts = {split: one.names for split, one in found.items()}
    skipped = {name: why for one in found.values() for name, why in one.skipped.items()}
    classes = sorted({_class(root, name, 1) for names in parts.values() for name in names})
    lists = {split: _labelled(root, names, classes, 1) for split, names in parts.items()}
    return Splits(
        folder_protocol("folders"),
        lists["query"],
        lists.get("train", lists["database"]),
        lists["database"],
        skipped=skipped,
    )


def _class(root: Path, name: str, depth: int) -> str:
    parts = name.split("/")
    if len(parts) < depth + 2:
        raise InputError(
            f"{root / name}: expected in a folder named after its class, as {root}/<class>/...; "
            "move it there, or take the folders as albums with --data.labels none"
        )
    return parts[depth]


def _labelled(root: Path, names: list[str], classes: list[str], depth: int) -> ImageList:
    check_table(len(names), len(classes), str(root), "take the folders as --data.labels none")
    labels = np.asarray([_class(root, name, depth) for name in names])[:, None] == np.asarray(
        classes
    )
    return ImageList(names, labels.reshape(len(names), len(classes)), root, source=str(root))


def check_table(rows: int, labels: int, where: str, mend: str) -> None:
    """Refuse a label table that would not fit: one label an image makes it grow as the square.

    Raises:
        InputError: more than ``UDMSH_MAX_BYTES``.
    """
    if rows * labels > limit("BYTES"):
        raise InputError(
            f"{where}: a table of {rows:,} images x {labels:,} labels is more than "
            f"{limit('BYTES'):,} bytes; {mend}, or set UDMSH_MAX_BYTES higher"
        )


def _why_not(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    reason = no_picture(path.suffix.lower())
    if reason or path.is_file():
        return reason
    return "a broken link" if path.is_symlink() else "no regular file"


def _relative(path: str, root: Path) -> str:
    name = os.path.relpath(path, root)
    return "" if name == "." else Path(name).as_posix()


def folder_protocol(name: str) -> Protocol:
    """A protocol that fixes nothing but its own ``name``: the pictures are the user's."""
    return Protocol(
        dataset="folder",
        name=name,
        queries=None,
        train=None,
        database=None,
        labels=None,
        map_at=None,
        licence="the owner's",
        home="",
        paper="",
    )
