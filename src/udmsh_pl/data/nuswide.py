"""NUS-WIDE: 269,648 pictures of Flickr with 81 concepts, from the official files or from anybody's
lists.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.data.official import drawn_splits
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import read_splits
from udmsh_pl.images.protocol import Protocol, named, resized
from udmsh_pl.images.split import draw, draw_per_label
from udmsh_pl.images.usable import drop_missing

HOME = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
_21 = Protocol(
    dataset="nuswide",
    name="21-concepts",
    queries=2_100,
    train=10_500,
    database=193_734,
    labels=21,
    map_at=5000,
    licence="labels for research use; each picture has its photographer's terms",
    home=HOME,
    paper="Xia et al., CNNH, AAAI 2014; the random draw is ours, since theirs is not published",
)
PROTOCOLS = {
    "21-concepts": _21,
    "81-concepts": replace(
        _21,
        name="81-concepts",
        queries=5_000,
        train=10_000,
        database=None,
        labels=81,
        paper="Cao et al., HashNet, ICCV 2017; give its lists for its own draw",
    ),
    "10-concepts": replace(
        _21,
        name="10-concepts",
        queries=5_000,
        train=5_000,
        database=None,
        labels=10,
        paper="Yang et al., SSDH, IJCAI 2018; the random draw is ours",
    ),
}


def load_official(root: Path, images: Path, protocol: Protocol, split_seed: int) -> Splits:
    """Build a split from the official text files: the most frequent concepts, the images that carry
    any, a seeded draw.

    The draw depends on the text files and the seed alone, never on which pictures are on the disk.

    Args:
        root: folder with ``ImageList/Imagelist.txt``, ``Groundtruth/AllLabels/Labels_*.txt`` and
            ``Concepts81.txt`` (in it or in ``ConceptsList/``), as unpacked from the official zips.
        images: folder of the pictures, ``<concept>/<file>`` below it as ``Imagelist.txt`` says.
        protocol: one of ``PROTOCOLS``; its ``labels`` most frequent concepts become the label
            columns, in the order of ``Concepts81.txt``.
        split_seed: decides the draw.

    Raises:
        InputError: a text file is absent or malformed (file and line), or there are too few images
            for the protocol.
    """
    names = [line.replace("\\", "/") for line in _lines(root / "ImageList" / "Imagelist.txt")]
    listed = root / "Concepts81.txt"
    concepts = _lines(listed if listed.is_file() else root / "ConceptsList" / "Concepts81.txt")
    folder = root / "Groundtruth" / "AllLabels"
    table = np.stack(
        [_read_flags(folder / f"Labels_{concept}.txt", len(names)) for concept in concepts], axis=1
    )
    width = protocol.labels or len(concepts)
    if width > len(concepts):
        raise InputError(
            f"{listed}: expected at least {width} concepts, found {len(concepts)}; fetch the file "
            "again"
        )
    frequent = np.sort(np.argsort(-table.sum(axis=0), kind="stable")[:width])
    source = str(root / "ImageList" / "Imagelist.txt")
    everything = ImageList(names, table[:, frequent], images, source=source, upright=False)
    labelled = everything.select(np.flatnonzero(everything.labels.any(axis=1)))
    queries, train = protocol.queries or 0, protocol.train or 0
    if protocol.labels == 21:
        rows = draw_per_label(
            labelled.labels, {"query": queries // width, "train": train // width}, split_seed
        )
    else:
        rows = draw(np.arange(len(labelled)), {"query": queries, "train": train}, split_seed)
    return drawn_splits(protocol, labelled, rows)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not there; NUS-WIDE cannot be downloaded by a program: unpack ImageList.zip, "
            f"Groundtruth.zip and ConceptsList.zip of {HOME} in --data.root, the pictures in its "
            "folder Flickr (or set --data.images), or give --data.lists a folder with test.txt, "
            "train.txt and database.txt"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); unpack it again") from error
    kept = [line.strip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    if "" in kept or not kept:
        raise InputError(
            f"{path}:{kept.index('') + 1 if kept else 1}: an empty line; unpack the file again"
        )
    return kept


def _read_flags(path: Path, count: int) -> NDArray[np.bool_]:
    """``count`` lines of 0 or 1 as bool [count]."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); unpack Groundtruth.zip of {HOME}"
        ) from error
    flags = np.frombuffer(data.translate(None, b" \t\r\n"), np.uint8)
    lines = data.split()
    if len(flags) == len(lines) == count and not np.any((flags != ord("0")) & (flags != ord("1"))):
        table: NDArray[np.bool_] = flags == ord("1")
        return table
    for number, line in enumerate(lines, 1):
        if line not in (b"0", b"1"):
            raise InputError(
                f"{path}:{number}: expected 0 or 1, found {line[:20]!r}; unpack Groundtruth.zip "
                "again"
            )
    raise InputError(
        f"{path}: expected {count} lines, one for each line of Imagelist.txt, found {len(lines)}"
    )


@dataclass(kw_only=True, eq=False, repr=False)
class NUSWIDE(RetrievalDataModule):
    """NUS-WIDE, from the official text files or from list files; the pictures are links, many of
    them dead.

    The default, ``21-concepts``, is the split that most papers on unsupervised hashing name; its
    draw is not published, so give ``lists`` to compare with somebody's numbers and say whose lists
    they are.

    Args:
        root: folder of the official ``ImageList``, ``Groundtruth`` and ``Concepts81.txt``; with
            ``lists``, the folder that the paths in the lists are relative to
        protocol: ``21-concepts`` (100 queries and 500 train images a concept), ``81-concepts``
            (5,000 and 10,000) or ``10-concepts`` (5,000 and 5,000); the database is all other
            images with any of the concepts, and the train images
        queries: another number of queries than the protocol's; the results then carry it in the
            protocol's name
        train: another number of train images, likewise
        images: folder of the pictures; null for ``root/Flickr``
        lists: folder with ``test.txt``, ``train.txt`` and ``database.txt`` to use instead of a draw
        split_seed: decides the draw
        allow_missing: go on without the pictures that are absent; their numbers enter the
            fingerprint
    """

    root: Path = Path("datasets/nuswide")
    protocol: str = "21-concepts"
    queries: int | None = None
    train: int | None = None
    images: Path | None = None
    lists: Path | None = None
    split_seed: int = 0
    allow_missing: bool = False

    def load_splits(self) -> Splits:
        """Read or draw the split, and look for the pictures."""
        protocol = resized(named(PROTOCOLS, self.protocol), self.queries, self.train)
        if self.lists is not None:
            splits = read_splits(self.lists, self.images or self.root, protocol)
        else:
            splits = load_official(
                self.root, self.images or self.root / "Flickr", protocol, self.split_seed
            )
        return drop_missing(splits, self.allow_missing)
