"""MS-COCO 2014 and 2017: the same 123,287 pictures in two official partitions, 80 categories."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from udmsh_pl.data.official import OR_LISTS, Benchmark, drawn_splits
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import read_list, write_list
from udmsh_pl.images.protocol import Protocol, draw

HOME = "https://cocodataset.org/#download"
_2014 = Protocol(
    "coco", "2014", queries=5_000, train=10_000, database=117_218, labels=80, map_at=5000,
    licence="annotations CC BY 4.0; each picture has its photographer's terms", home=HOME,
    paper="Cao et al., HashNet, ICCV 2017; give its lists for its own draw",
)  # fmt: skip
PROTOCOLS = {"2014": _2014, "2017": replace(_2014, name="2017")}


def read_annotations(path: Path, folder: str) -> ImageList:
    """Read an official ``instances_*.json``: one row an image with at least one object, in the
    order of the file, named ``folder/file_name``; labels bool [N, L], one column a category in the
    order of their ids.

    Raises ``InputError``: the file is absent, no JSON, or has no valid images, annotations and
    categories.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            content = json.load(stream, object_hook=_slim)
        categories = sorted(one["id"] for one in content["categories"])
        columns = {number: column for column, number in enumerate(categories)}
        rows = {one["id"]: row for row, one in enumerate(content["images"])}
        labels = np.zeros((len(rows), len(columns)), dtype=np.bool_)
        for one in content["annotations"]:
            labels[rows[one["image_id"]], columns[one["category_id"]]] = True
        names = [f"{folder}/{one['file_name']}" for one in content["images"]]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not there; unpack the annotations of {HOME} and the pictures of {folder}.zip "
            f"in --data.root, {OR_LISTS}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{path}: not an instances file of COCO (no or unknown {error})"
        raise InputError(f"{problem}; take annotations/instances_*.json") from error
    if not labels.any():
        raise InputError(f"{path}: no image has an annotation; take annotations/instances_*.json")
    images = ImageList(names, labels, path.parent.parent, source=str(path), upright=False)
    return images.select(np.flatnonzero(labels.any(axis=1)))


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    # polygons are nearly all of the file; dropped while it is read, they never pile up in memory
    record.pop("segmentation", None)
    record.pop("bbox", None)
    return record


@dataclass(kw_only=True, eq=False, repr=False)
class COCO(Benchmark):
    """MS-COCO from the official annotations or from lists: pictures with an object of any of the 80
    categories.

    The default, ``2014``, is HashNet's; ``2017`` has the same pictures under other names. Nothing
    is downloaded, since that is 19 GB: unpack ``train2014.zip``, ``val2014.zip`` and
    ``annotations_trainval2014.zip`` (or those of 2017) in ``root``.

    Args:
        root: folder with ``annotations/instances_*.json`` and the picture folders; with ``lists``,
            the folder that the paths in the lists are relative to
        protocol: ``2014`` or ``2017``: 5,000 queries, 10,000 train images, and all but the queries
            as database
    """

    protocols = PROTOCOLS

    root: Path = Path("datasets/coco")
    protocol: str = "2014"

    def draw_splits(self, protocol: Protocol) -> Splits:
        """See :class:`Benchmark`; the order of the annotations decides the draw too."""
        parts = [self._annotated(f"{half}{self.protocol}") for half in ("train", "val")]
        names = [name for part in parts for name in part.names]
        labels = np.concatenate([part.labels for part in parts])
        source = str(self.root / "annotations")
        everything = ImageList(names, labels, self.root, source=source, upright=False)
        counts = {"query": protocol.queries or 0, "train": protocol.train or 0}
        rows = draw(np.arange(len(everything)), counts, self.split_seed)
        return drawn_splits(protocol, everything, rows)

    def _annotated(self, folder: str) -> ImageList:
        """Labels of one annotation file, kept as a list in the cache: 20 times faster to read."""
        path = self.root / "annotations" / f"instances_{folder}.json"
        try:
            facts = path.stat()
        except OSError:
            return read_annotations(path, folder)  # raises the error that says what to put there
        state = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        key = hashlib.sha256(state.encode()).hexdigest()[:16]
        kept = self.cache_dir.expanduser() / f"coco-{folder}-{key}.txt"
        if not kept.is_file():
            write_list(read_annotations(path, folder), kept)
        return read_list(kept, self.root)
