"""Directories of pictures: which splits their folders make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import SPLITS, ImageList, Splits
from udmsh_pl.images.protocol import Protocol, draw
from udmsh_pl.images.walk import skipped_line, walk
from udmsh_pl.safe.untrusted import limit

FolderLabels = Literal["folders", "none"]


def load_tree(
    root: Path,
    query_share: float,
    split_seed: int,
    labels: FolderLabels = "folders",
    exclude: Sequence[str] = (),
) -> Splits:
    """Splits of a directory of images; what was left out stands in ``skipped``.

    With ``labels="folders"``:

    - ``root/query/<class>/...``, ``root/database/<class>/...`` and, if there is,
      ``root/train/<class>/...``: as they are; without ``train``, the database is the train set.
    - ``root/<class>/...`` else: ``query_share`` of the images, drawn by the seed, are the queries.
    - images without class folders: no labels and no queries, all are train and database.

    With ``labels="none"`` (albums) all images below ``root``, wherever they lie, are train and
    database; there are no labels and no queries. ``exclude`` holds patterns of what is left out
    too, see :func:`udmsh_pl.images.walk.excluded`.

    Raises ``InputError``: no such folder, no images in it, or images that lie beside the class
    folders.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.root to the folder of your images")
    if labels == "folders" and (root / "query").is_dir() and (root / "database").is_dir():
        return _as_named(root, exclude)
    found = walk(root, exclude=exclude)
    names, skipped = list(found.files), found.skipped
    if not names:
        mend = "set --data.root to the folder of your images"
        raise InputError(f"{root}: no images here ({skipped_line(skipped)}); {mend}")
    if labels == "none" or not any("/" in name for name in names):
        images = ImageList(names, np.zeros((len(names), 0), dtype=np.bool_), root, source=str(root))
        return Splits(Protocol("folder", "unlabelled"), None, images, images, skipped=skipped)
    everything = _labelled(root, names, sorted({_class(root, name, 0) for name in names}), 0)
    return drawn_queries("folders", everything, query_share, split_seed, skipped)


def drawn_queries(
    kind: str, images: ImageList, share: float, seed: int, skipped: dict[str, str] | None = None
) -> Splits:
    """Splits whose queries are a share of the images, drawn by a seed; the others are database and
    train set. ``kind`` is the first part of the protocol's name.
    """
    if not 0 < share < 1:
        raise InputError(f"--data.query_share is {share}; give a share above 0 and below 1")
    rows = draw(np.arange(len(images)), {"query": max(1, round(share * len(images)))}, seed)
    query, database = images.select(rows["query"]), images.select(rows["rest"])
    protocol = Protocol("folder", f"{kind}-{share:g}-seed{seed}")
    return Splits(protocol, query, database, database, skipped=skipped or {})


def _as_named(root: Path, exclude: Sequence[str]) -> Splits:
    found = {name: walk(root, name, exclude) for name in SPLITS if (root / name).is_dir()}
    skipped = {name: why for one in found.values() for name, why in one.skipped.items()}
    classes = sorted({_class(root, name, 1) for one in found.values() for name in one.files})
    lists = {split: _labelled(root, list(one.files), classes, 1) for split, one in found.items()}
    query, database = lists["query"], lists["database"]
    train = lists.get("train", database)
    return Splits(Protocol("folder", "folders"), query, train, database, skipped=skipped)


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
    own = np.asarray([_class(root, name, depth) for name in names])
    labels = (own[:, None] == np.asarray(classes)).reshape(len(names), len(classes))
    return ImageList(names, labels, root, source=str(root))


def check_table(rows: int, labels: int, where: str, mend: str) -> None:
    """Refuse a label table above ``UDMSH_MAX_BYTES``: with a label an image, it is a square."""
    if rows * labels > limit("BYTES"):
        raise InputError(
            f"{where}: a table of {rows:,} images x {labels:,} labels is more than "
            f"{limit('BYTES'):,} bytes; {mend}, or set UDMSH_MAX_BYTES higher"
        )
