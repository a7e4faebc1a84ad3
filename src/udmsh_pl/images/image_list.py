"""Images with labels, by name on a disk or as pixels in memory, and a protocol's three splits.

A name is an image's identity: each file has one spelling, and none leads outside.
"""

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, decode
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.safe.untrusted import read_file

SPLITS = ("query", "train", "database")
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # a part that is empty, . or ..


@dataclass(frozen=True, eq=False)
class ImageList:
    """N images with L labels each, in a fixed order: an image's row is its identity elsewhere.

    Args:
        names: N names, paths relative to ``root`` with forward slashes; unique within a split
        labels: bool [N, L]; L may be 0 for images without labels
        root: folder that the names are relative to; None for the working directory
        pixels: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB) of images in memory; None on a disk
        source: where the names come from (a list file, an archive), for errors
        upright: show pictures as viewers do, see :func:`udmsh_pl.images.decode.decode`. Off for
            published benchmarks, as the code behind their numbers. It belongs in features' keys

    Raises ``InputError``: numbers of names, labels and pixels differ, or a dtype is another one.
    """

    names: Sequence[str]
    labels: NDArray[np.bool_]
    root: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    source: str = ""
    upright: bool = True

    def __post_init__(self) -> None:
        rows = len(self.names)
        if self.labels.ndim != 2 or self.labels.dtype != np.bool_ or len(self.labels) != rows:
            raise InputError(
                f"{self.source or 'labels'}: expected a bool array [{rows}, L], one row a name, "
                f"got {self.labels.dtype} {list(self.labels.shape)}"
            )
        if self.pixels is not None and (self.pixels.dtype != np.uint8 or len(self.pixels) != rows):
            raise InputError(
                f"{self.source or 'pixels'}: expected a uint8 array with {rows} images, one a "
                f"name, got {self.pixels.dtype} {list(self.pixels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """Path of the image file of a row (which need not exist for images in memory)."""
        return Path(self.names[row]) if self.root is None else self.root / self.names[row]

    def content(self, row: int) -> bytes:
        """The bytes that decide a row's picture: of its file, where it can be read, or pixels."""
        if self.pixels is not None:
            return bytes(self.pixels[row].tobytes())
        return read_file(self.path(row), "picture")

    def load(self, row: int, at_least: int | None = None) -> Image.Image:
        """Decode one image to RGB, see :func:`udmsh_pl.images.decode.decode`; errors name the row.

        Only ``upright`` lists use ``at_least``: benchmarks decode whole pictures.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels[row]).convert("RGB")
        path = self.path(row)
        try:
            return decode(path, self.upright, at_least if self.upright else None)
        except UnreadablePicture as error:
            problem = f"not a readable image ({error.reason})"
            mend = "fetch that file again or remove it; `udmsh data check` lists all such files"
            if error.absent:
                problem, mend = "no such image", "set --data.root to the folder that holds it, or "
                mend += "see all that are missing with `udmsh data check`"
            error.args = (f"{path}: {problem}{self._asked_by(row)}; {mend}",)
            raise

    def select(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> "ImageList":
        """The images of the given rows, in the given order."""
        index = np.asarray(rows, dtype=np.int64)
        names = [self.names[row] for row in index.tolist()]
        pixels = None if self.pixels is None else self.pixels[index]
        return replace(self, names=names, labels=self.labels[index], pixels=pixels)

    def lines(self) -> list[bytes]:
        """One ``path 0 1 0`` line a row, UTF-8, without line ends: for list files, fingerprints."""
        text = np.full((len(self), 2 * self.labels.shape[1]), ord(" "), dtype=np.uint8)
        text[:, 1::2] = self.labels + np.uint8(ord("0"))
        return [_bytes(name) + row.tobytes() for name, row in zip(self.names, text, strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over the sorted ``path 0 1 0`` lines: the order does not count."""
        return hashlib.sha256(b"".join(line + b"\n" for line in sorted(self.lines()))).hexdigest()

    def _asked_by(self, row: int) -> str:
        """``, named by FILE:LINE`` where the source is a list file, else ``, named by SOURCE``."""
        if self.source and Path(self.source).is_file():
            with Path(self.source).open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.startswith(_bytes(self.names[row]) + b" "):
                        return f", named by {self.source}:{number}"
        return f", named by {self.source}" if self.source else ""


def _bytes(name: str) -> bytes:
    """As os.fsencode: a name on a disk may hold bytes that are no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def one_hot(classes: NDArray[np.integer[Any]], count: int) -> NDArray[np.bool_]:
    """Class numbers, integers [N] in 0..count-1, as bool labels [N, count]."""
    labels: NDArray[np.bool_] = np.asarray(classes)[:, None] == np.arange(count)
    return labels


@dataclass(frozen=True, eq=False)
class Splits:
    """The query, training and database images of a benchmark under one protocol.

    Args:
        protocol: the facts of the benchmark
        query: images to search with; None when there are no labels to score with
        train: images to learn from, without labels; may be the database or a part of it
        database: images to search in
        missing: numbers of images that the protocol names and the disk lacks, by split
        skipped: files that were found and left out, by name, and why (no picture, hidden,
            unreadable): not part of the fingerprint

    Raises ``InputError``: numbers of labels differ, a split is empty or names an image twice, or a
    query is also a training or database image (a leak: its own copy would be retrieved first), also
    where the two names are spelled in two ways (``./a.jpg``).
    """

    protocol: Protocol
    query: ImageList | None
    train: ImageList
    database: ImageList
    missing: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        splits = self.by_name()
        widths = {name: images.labels.shape[1] for name, images in splits.items()}
        if len(set(widths.values())) > 1:
            counts = ", ".join(f"{name} {width}" for name, width in widths.items())
            problem = f"{self.protocol}: label counts differ between splits ({counts})"
            raise InputError(f"{problem}; use lists of one set")
        spelled = {name: list(map(normal, images.names)) for name, images in splits.items()}
        for name, images in splits.items():
            what, own = f"{self.protocol}: the {name} split", spelled[name]
            if not own:
                raise InputError(f"{what} is empty; give it at least one image")
            if len(set(own)) < len(own):
                last = {one: row for row, one in enumerate(own)}
                again = next(last[one] for row, one in enumerate(own) if last[one] != row)
                raise InputError(f"{what} names {images.names[again]} twice; remove one of them")
            queries = spelled.get("query", []) if name != "query" else []
            shared = set(own).intersection(queries)
            if shared:
                first = [path for path in splits["query"].names if normal(path) in shared][:3]
                raise InputError(
                    f"{self.protocol}: {len(shared)} of {len(queries)} query images are also in "
                    f"the {name} split ({', '.join(first)}{', ...' if len(shared) > 3 else ''}); "
                    "take them out of one of the two lists"
                )

    def by_name(self) -> dict[str, ImageList]:
        """The splits that exist, under ``query``, ``train`` and ``database``, in that order."""
        named = zip(SPLITS, (self.query, self.train, self.database), strict=True)
        return {name: images for name, images in named if images is not None}

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over the splits' fingerprints, and over missing images if any."""
        lines = [f"{name} {images.fingerprint()}\n" for name, images in self.by_name().items()]
        missing = sorted((name, count) for name, count in self.missing.items() if count)
        lines += [f"missing {name} {count}\n" for name, count in missing]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def protocol_name(self) -> str:
        """The protocol's name, and what it lacks: numbers are not those of the whole one."""
        lost = ", ".join(f"{count} {name}" for name, count in self.missing.items() if count)
        return f"{self.protocol.name} less {lost} images" if lost else self.protocol.name


def normal(name: str) -> str:
    """The one spelling of a name: ``./a//b/../c.jpg`` is ``a/c.jpg``."""
    if not _ODD.search(name):
        return name
    return posixpath.normpath("/" + name.lstrip("/") if name.startswith("/") else name)


def inside(name: str, root: Path | None, allow_outside: bool, where: str) -> str:
    """The normal spelling of a name from a list or manifest, relative to ``root`` if it lies there.

    Links are followed as any program follows them; who can make links in ``root`` can read there.

    Raises ``InputError``: no name of a file, or it leads out of ``root`` (None for the working
    directory) and not ``allow_outside``; the message begins with ``where``, the name's line.
    """
    spelled = normal(name)
    if "\0" in name or spelled in ("", ".", "..", "/"):
        raise InputError(f"{where}: {name!r} is no name of a file; give a path")
    absolute = spelled.startswith("/") or (os.name == "nt" and Path(spelled).is_absolute())
    if absolute:
        base = normal(Path(root or ".").absolute().as_posix()).rstrip("/") + "/"
        if spelled.startswith(base):
            return spelled.removeprefix(base)
    if (absolute or spelled.startswith("../")) and not allow_outside:
        raise InputError(
            f"{where}: {name!r} leads out of {root or 'the working directory'}; give paths below "
            "--data.root, or let such paths pass with --data.allow_outside true"
        )
    return spelled


class ImageDataset(Dataset[dict[str, Any]]):
    """Items of an :class:`ImageList`: dicts of ``image`` (float [3, H, W], by ``transform``),
    ``labels`` (bool [L]) and ``index`` (int, the row in the split); the default collation makes
    float [B, 3, H, W], bool [B, L], long [B] of it.
    """

    def __init__(self, images: ImageList, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Load, transform and label the image of a row; errors as of :meth:`ImageList.load`."""
        image, labels = self.transform(self.images.load(row)), self.images.labels[row].copy()
        return {"image": image, "labels": torch.from_numpy(labels), "index": row}
