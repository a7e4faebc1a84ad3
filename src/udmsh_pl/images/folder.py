"""Directories of pictures: which files are images, and which splits their folders make."""

from pathlib import Path

import numpy as np
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.split import draw

SPLITS = ("query", "train", "database")


def find_images(root: Path, below: str = "") -> list[str]:
    """Names of all image files under ``root/below``, relative to ``root``, sorted.

    Hidden ones are left out.

    What is an image is told by the ending, for all formats that Pillow reads.
    """
    Image.init()
    found: list[str] = []
    for path in (root / below).rglob("*"):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix.lower() in Image.EXTENSION and not hidden and path.is_file():
            found.append(name)
    return sorted(found)


def load_tree(root: Path, query_share: float, split_seed: int) -> Splits:
    """Splits of a directory of images.

    - ``root/query/<class>/...``, ``root/database/<class>/...`` and, if there is,
      ``root/train/<class>/...``: as they are; without ``train``, the database is the train set.
    - ``root/<class>/...`` else: a share of the images, drawn by the seed, are the queries.
    - images without class folders: no labels and no queries, all are train and database.

    Raises:
        InputError: no such folder, no images in it, or images that lie beside the class folders.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.root to the folder of your images")
    if (root / "query").is_dir() and (root / "database").is_dir():
        parts = {name: find_images(root, name) for name in SPLITS if (root / name).is_dir()}
        classes = sorted({_class(root, name, 1) for names in parts.values() for name in names})
        lists = {split: _labelled(root, names, classes, 1) for split, names in parts.items()}
        return Splits(
            folder_protocol("folders"),
            lists["query"],
            lists.get("train", lists["database"]),
            lists["database"],
        )
    names = find_images(root)
    if not names:
        raise InputError(f"{root}: no images here; set --data.root to the folder of your images")
    if not any("/" in name for name in names):
        images = ImageList(names, np.zeros((len(names), 0), dtype=np.bool_), root, source=str(root))
        return Splits(folder_protocol("unlabelled"), None, images, images)
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
    )


def _class(root: Path, name: str, depth: int) -> str:
    parts = name.split("/")
    if len(parts) < depth + 2:
        raise InputError(
            f"{root / name}: expected in a folder named after its class, as {root}/<class>/...; "
            "move it there"
        )
    return parts[depth]


def _labelled(root: Path, names: list[str], classes: list[str], depth: int) -> ImageList:
    labels = np.asarray([_class(root, name, depth) for name in names])[:, None] == np.asarray(
        classes
    )
    return ImageList(names, labels.reshape(len(names), len(classes)), root, source=str(root))


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
