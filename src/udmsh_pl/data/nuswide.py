"""NUS-WIDE: 269,648 pictures of Flickr with 81 concepts, from official files or anybody's lists."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.data.official import OR_LISTS, Benchmark, drawn_splits
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol, draw, draw_per_label

HOME = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
_21 = Protocol(
    "nuswide", "21-concepts", queries=2_100, train=10_500, database=193_734, labels=21, map_at=5000,
    licence="labels for research use; each picture has its photographer's terms", home=HOME,
    paper="Xia et al., CNNH, AAAI 2014; the random draw is ours, since theirs is not published",
)  # fmt: skip
PROTOCOLS = {
    "21-concepts": _21,
    "81-concepts": replace(
        _21, name="81-concepts", queries=5_000, train=10_000, database=None, labels=81,
        paper="Cao et al., HashNet, ICCV 2017; give its lists for its own draw",
    ),
    "10-concepts": replace(
        _21, name="10-concepts", queries=5_000, train=5_000, database=None, labels=10,
        paper="Yang et al., SSDH, IJCAI 2018; the random draw is ours",
    ),
}  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class NUSWIDE(Benchmark):
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
        images: folder of the pictures; null for ``root/Flickr``
    """

    protocols = PROTOCOLS

    root: Path = Path("datasets/nuswide")
    protocol: str = "21-concepts"
    images: Path | None = None

    def listed_below(self) -> Path:
        """The folder of the pictures where it is given, else ``root``."""
        return self.images or self.root

    def draw_splits(self, protocol: Protocol) -> Splits:
        """See :class:`Benchmark`: a draw of the images that carry any of the most frequent
        concepts, which become the label columns in the order of ``Concepts81.txt``.
        """
        root, source = self.root, self.root / "ImageList" / "Imagelist.txt"
        names = [line.replace("\\", "/") for line in _lines(source)]
        listed = root / "Concepts81.txt"
        concepts = _lines(listed if listed.is_file() else root / "ConceptsList" / "Concepts81.txt")
        folder = root / "Groundtruth" / "AllLabels"
        flags = [_read_flags(folder / f"Labels_{one}.txt", len(names)) for one in concepts]
        width = protocol.labels or len(concepts)
        if width > len(concepts):
            problem = f"{listed}: expected at least {width} concepts, found {len(concepts)}"
            raise InputError(f"{problem}; fetch the file again")
        table = np.stack(flags, axis=1)
        labels = table[:, np.sort(np.argsort(-table.sum(axis=0), kind="stable")[:width])]
        pictures = self.images or root / "Flickr"
        everything = ImageList(names, labels, pictures, source=str(source), upright=False)
        labelled = everything.select(np.flatnonzero(labels.any(axis=1)))
        counts = {"query": protocol.queries or 0, "train": protocol.train or 0}
        if protocol.labels == 21:
            each = {name: count // width for name, count in counts.items()}
            rows = draw_per_label(labelled.labels, each, self.split_seed)
        else:
            rows = draw(np.arange(len(labelled)), counts, self.split_seed)
        return drawn_splits(protocol, labelled, rows)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not there; NUS-WIDE cannot be downloaded by a program: unpack ImageList.zip, "
            f"Groundtruth.zip and ConceptsList.zip of {HOME} in --data.root, the pictures in its "
            f"folder Flickr (or set --data.images), {OR_LISTS}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); unpack it again") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise InputError(f"{path}:{lines.index('') + 1}: an empty line; unpack the file again")
    return lines


def _read_flags(path: Path, count: int) -> NDArray[np.bool_]:
    """``count`` lines of 0 or 1 as bool [count]."""
    try:
        lines = path.read_bytes().split()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); unpack Groundtruth.zip of {HOME}"
        ) from error
    flags = b"".join(lines)
    if len(flags) != len(lines) or flags.strip(b"01"):
        number = next(row for row, line in enumerate(lines) if line not in (b"0", b"1"))
        problem = f"{path}:{number + 1}: expected 0 or 1, found {lines[number][:20]!r}"
        raise InputError(f"{problem}; unpack Groundtruth.zip again")
    if len(lines) != count:
        raise InputError(f"{path} has {len(lines)} lines, Imagelist.txt {count}; unpack both again")
    table: NDArray[np.bool_] = np.frombuffer(flags, np.uint8) == ord("1")
    return table
