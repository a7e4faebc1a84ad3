"""MIRFLICKR-25K: 25,000 pictures of Flickr with 24 concepts, 14 also in a stricter sense."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.data.official import Benchmark, drawn_splits, fetch, refuse_failed_download, unpack
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol, draw

HOME = "https://press.liacs.nl/mirflickr/mirdownload.html"
_FILES = "https://press.liacs.nl/mirflickr/mirflickr25k.v3b"
# from the official page, which gives none for the annotations
_IMAGES_MD5 = "a23d0a8564ee84cda5622a6c2f947785"
_COUNT = 25_000
_MIN_TAG = 20  # a tag counts when it stands at so many images
_24 = Protocol(
    "mirflickr", "24-labels", queries=2_000, train=10_000, database=18_015, labels=24, map_at=5000,
    licence="Creative Commons, each picture its photographer's; see its doc folder", home=HOME,
    paper="Jiang & Li, DCMH, CVPR 2017 (the 20,015 images) and SSDH, IJCAI 2018; the random draw "
    "is ours",
)  # fmt: skip
PROTOCOLS = {
    "24-labels": _24,
    "38-annotations": replace(
        _24, name="38-annotations", queries=1_000, train=4_000, database=20_000, labels=38,
        paper="the lists of github.com/swuxyj/DeepHash-pytorch; give them for their draw, else it "
        "is ours",
    ),
}  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class MIRFlickr(Benchmark):
    """MIRFLICKR-25K: downloaded from its home (3.1 GB), or read from lists and a folder of images.

    The default, ``24-labels``, is what SSDH and its successors report: the images that carry a
    label and a tag which stands at 20 images or more (*read* from DCMH's data, whose 20,015 images
    others rebuilt that way). That this gives exactly 20,015 images could not be verified without
    the archive: ``udmsh data check`` compares the counts with the protocol. ``38-annotations``
    takes all images, with the stricter ``_r1`` annotations as labels of their own in alphabetical
    order.

    Args:
        root: folder of the two unpacked archives, ``mirflickr`` and
            ``mirflickr25k_annotations_v080``; with ``lists``, the folder of the images
        protocol: ``24-labels`` (2,000 queries, 10,000 train, 18,015 database images, which include
            the train images) or ``38-annotations`` (1,000, 4,000 and 20,000, disjoint)
    """

    protocols = PROTOCOLS

    root: Path = Path("datasets/mirflickr25k")
    protocol: str = "24-labels"

    def download(self) -> None:
        """Fetch and unpack the official archives that are missing, unless ``lists`` are given."""
        if self.lists is not None:
            return
        for name, md5 in (("mirflickr25k_annotations_v080", None), ("mirflickr25k", _IMAGES_MD5)):
            unpacked = self.root / ("mirflickr" if name == "mirflickr25k" else name)
            if unpacked.is_dir():
                continue
            archive = self.root / f"{name}.zip"
            with refuse_failed_download("MIRFLICKR-25K", HOME, self.root):
                fetch(f"{_FILES}/{name}.zip", archive, md5)
                unpack(archive, unpacked)

    def draw_splits(self, protocol: Protocol) -> Splits:
        """See :class:`Benchmark`; names are ``imN.jpg`` in ``root/mirflickr``."""
        folder, pictures = self.root / "mirflickr25k_annotations_v080", self.root / "mirflickr"
        files = sorted(path for path in folder.glob("*.txt") if path.stem.lower() != "readme")
        if protocol.labels == 24:
            files = [path for path in files if not path.stem.endswith("_r1")]
        if len(files) != protocol.labels:
            raise InputError(
                f"{folder}: expected {protocol.labels} annotation files, found {len(files)}; let "
                "the machine download mirflickr25k_annotations_v080.zip, or fetch it from "
                f"{HOME} and unpack it there"
            )
        labels = np.zeros((_COUNT, len(files)), dtype=np.bool_)
        for column, path in enumerate(files):
            labels[_read_numbers(path) - 1, column] = True
        names = [f"im{number}.jpg" for number in range(1, _COUNT + 1)]
        everything = ImageList(names, labels, pictures, source=str(folder), upright=False)
        rows = np.arange(_COUNT)
        if protocol.labels == 24:
            rows = np.flatnonzero(labels.any(axis=1) & _has_common_tag(pictures / "meta" / "tags"))
        counts = {"query": protocol.queries or 0, "train": protocol.train or 0}
        parts = draw(rows, counts, self.split_seed)
        if protocol.labels == 24:
            return drawn_splits(protocol, everything, parts)
        query, train, database = (everything.select(parts[n]) for n in ("query", "train", "rest"))
        return Splits(protocol, query, train, database)


def _read_numbers(path: Path) -> NDArray[np.int64]:
    """Image numbers, one a line, from 1 to 25,000."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip() and not (line.strip().isdigit() and 1 <= int(line) <= _COUNT):
            raise InputError(
                f"{path}:{number}: expected an image number from 1 to {_COUNT}, found "
                f"{line[:20]!r}; unpack it again"
            )
    return np.asarray([int(line) for line in lines if line.strip()], dtype=np.int64)


def _has_common_tag(folder: Path) -> NDArray[np.bool_]:
    """Whether each image carries a tag of ``tagsN.txt`` (one a line) that ``_MIN_TAG`` carry."""
    tags: list[set[bytes]] = []
    for number in range(1, _COUNT + 1):
        try:
            tags.append(set((folder / f"tags{number}.txt").read_bytes().split()))
        except OSError as error:
            raise InputError(
                f"{folder}/tags{number}.txt: cannot be read ({error.strerror}); 24-labels needs "
                f"the tags of mirflickr25k.zip ({HOME}); or give --data.lists a folder with "
                "test.txt, train.txt and database.txt"
            ) from error
    carried = Counter(tag for one in tags for tag in one)
    common = {tag for tag, count in carried.items() if count >= _MIN_TAG}
    return np.asarray([not one.isdisjoint(common) for one in tags], dtype=np.bool_)
