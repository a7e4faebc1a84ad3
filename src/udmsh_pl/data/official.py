"""Official data: download and unpack archives, read test and train images, split by a draw."""

import hashlib
import shutil
import urllib.request
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits, one_hot
from udmsh_pl.images.list_file import read_splits
from udmsh_pl.images.protocol import Protocol, Rows, named, resized
from udmsh_pl.images.usable import drop_missing
from udmsh_pl.safe.files import atomic_path

OR_LISTS = "or give --data.lists a folder with test.txt, train.txt and database.txt"


@dataclass(kw_only=True, eq=False, repr=False)
class Benchmark(RetrievalDataModule):
    """A benchmark of picture files, whose split a seed draws or somebody's lists give.

    Args:
        queries: another number of queries than the protocol's; the results then carry it in the
            protocol's name
        train: another number of train images, likewise
        lists: folder with ``test.txt``, ``train.txt`` and ``database.txt`` to use instead of a draw
        split_seed: decides the draw
        allow_missing: go on without the pictures that are absent; their numbers enter the
            fingerprint
    """

    protocols: ClassVar[Mapping[str, Protocol]]

    root: Path
    protocol: str
    queries: int | None = None
    train: int | None = None
    lists: Path | None = None
    split_seed: int = 0
    allow_missing: bool = False

    def load_splits(self) -> Splits:
        """Read or draw the split, and look for the pictures."""
        protocol = resized(named(self.protocols, self.protocol), self.queries, self.train)
        if self.lists is None:
            splits = self.draw_splits(protocol)
        else:
            splits = read_splits(self.lists, self.listed_below(), protocol)
        return drop_missing(splits, self.allow_missing)

    @abstractmethod
    def draw_splits(self, protocol: Protocol) -> Splits:
        """Build the split from the official files below ``root``; refuses malformed ones.

        The draw depends on these files and the seed alone, never on which pictures are on the disk.
        """

    def listed_below(self) -> Path:
        """Folder that the paths in ``lists`` are relative to."""
        return self.root


@contextmanager
def refuse_failed_download(what: str, home: str, target: Path) -> Iterator[None]:
    """Turn a failed download (OSError, or torchvision's RuntimeError of a checksum) into one line:
    where the files come from and where to put them.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        mend = f"fetch it from {home} by hand and put it under {target}"
        raise InputError(f"{what} could not be downloaded ({reason}); {mend}") from error


def fetch(url: str, target: Path, md5: str | None = None) -> None:
    """Download a file with a progress bar, unless it is there already; whole or not at all.

    Without ``md5``, as its owner publishes it, the announced length alone is checked.

    Raises:
        InputError: the bytes are others.
        OSError: the network or the disk fails.
    """
    if target.is_file():
        return
    with urllib.request.urlopen(url, timeout=60) as answer, atomic_path(target) as partial:
        size = int(answer.headers.get("Content-Length") or 0)
        digest = hashlib.md5(usedforsecurity=False)
        bar = tqdm(total=size, unit="B", unit_scale=True, desc=target.name)
        with partial.open("wb") as stream, bar:
            while block := answer.read(1 << 20):
                stream.write(block)
                digest.update(block)
                bar.update(len(block))
            written = stream.tell()
        if (md5 is not None and digest.hexdigest() != md5) or (size and written != size):
            raise InputError(
                f"{url}: the download has {written} bytes with MD5 {digest.hexdigest()}, expected "
                f"{size or 'any number of'} bytes with MD5 {md5 or 'unknown'}; try again"
            )


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip into folder ``target``, which appears when all of it is unpacked; a folder alone
    at the top of the archive becomes ``target`` itself.
    """
    if target.is_dir():
        return
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in tqdm(packed.infolist(), unit="file", desc=f"unpack {archive.name}"):
                # extract drops ".." and absolute paths, so nothing is written elsewhere
                packed.extract(member, partial)
    except zipfile.BadZipFile as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{archive}: not a whole zip archive; delete it and run again") from error
    top = list(partial.iterdir())
    if len(top) == 1 and top[0].is_dir():
        top[0].rename(target)
        partial.rmdir()
    else:
        partial.rename(target)


def torchvision_images(kind: Any, root: Path, source: str, missing: str) -> list[ImageList]:
    """The official test and train images that a torchvision data set reads, in this order.

    Names are ``test/NNNNN`` and ``train/NNNNN``, rows of the official files; labels bool [N, 10].
    ``source`` is for messages, ``missing`` the error where files are missing or have another MD5.
    """
    parts = []
    for part in ("test", "train"):
        try:
            official = kind(str(root), train=part == "train")
        except RuntimeError as error:
            raise InputError(missing) from error
        names = [f"{part}/{row:05d}" for row in range(len(official))]
        labels, pixels = one_hot(np.asarray(official.targets), 10), np.asarray(official.data)
        parts.append(ImageList(names, labels, pixels=pixels, source=source))
    return parts


def drawn_splits(protocol: Protocol, everything: ImageList, rows: dict[str, Rows]) -> Splits:
    """Splits whose database is all images but the queries, from a draw of query and train rows."""
    select, database = everything.select, np.union1d(rows["train"], rows["rest"])
    return Splits(protocol, select(rows["query"]), select(rows["train"]), select(database))
