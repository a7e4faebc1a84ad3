"""Fashion-MNIST, in full by download, and a sample of 5,500 images that comes with the package."""

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from torchvision import datasets

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.data.official import refuse_failed_download, torchvision_images
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits, one_hot
from udmsh_pl.images.protocol import Protocol

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

PROTOCOL = Protocol(
    "fashion-mnist", "10k-60k", queries=10_000, train=60_000, database=60_000, labels=10,
    map_at=1000, licence="MIT (Zalando SE)",
    home="https://github.com/zalandoresearch/fashion-mnist",
    paper="ours; images of Xiao, Rasul & Vollgraf, arXiv:1708.07747",
)  # fmt: skip
SAMPLE = replace(
    PROTOCOL, dataset="fashion-sample", name="500-5k", queries=500, train=5000, database=5000,
    paper="ours; images of Xiao, Rasul & Vollgraf, Fashion-MNIST, arXiv:1708.07747",
)  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class FashionMNIST(RetrievalDataModule):
    """All of Fashion-MNIST: 10,000 queries against 60,000 database images, which are also the train
    set; 10 classes.

    Args:
        root: folder of the download; four unpacked ``*-ubyte`` files in its ``FashionMNIST/raw``
            are used
    """

    root: Path = Path("datasets")

    def download(self) -> None:
        """Fetch what is not there yet, through torchvision."""
        raw = self.root / "FashionMNIST" / "raw"
        with refuse_failed_download("Fashion-MNIST", PROTOCOL.home, raw):
            for train in (False, True):
                datasets.FashionMNIST(self.root, train=train, download=True)

    def load_splits(self) -> Splits:
        """Read the official IDX files; names are ``test/NNNNN`` and ``train/NNNNN``."""
        missing = (
            f"{self.root}/FashionMNIST/raw: the files of Fashion-MNIST are not there; let the "
            f"machine download them, or put the four *-ubyte files of {PROTOCOL.home} in that "
            "folder, unpacked"
        )
        kind = datasets.FashionMNIST
        test, train = torchvision_images(kind, self.root, "Fashion-MNIST", missing)
        return Splits(PROTOCOL, query=test, train=train, database=train)


def load_sample() -> Splits:
    """Read the sample: 500 queries (50 a class, official test images), 5,000 database = train
    images (500 a class).

    Grey images of 28 x 28 pixels in a fixed shuffled order; names are ``test/NNNNN`` and
    ``train/NNNNN``, the rows of the official files. ``scripts/make_sample.py`` made the file.
    """
    resource = files("udmsh_pl.data") / "files" / "fashion_sample.npz"
    try:
        with as_file(resource) as path, np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise InputError(f"{resource}: the sample is missing; install udmsh-pl again") from error
    query, database = (
        ImageList(
            names=[f"{official}/{row:05d}" for row in arrays[f"{split}_rows"].tolist()],
            labels=one_hot(arrays[f"{split}_labels"], len(CLASSES)),
            pixels=arrays[f"{split}_images"],
            source="embedded Fashion-MNIST sample",
        )
        for split, official in (("query", "test"), ("database", "train"))
    )
    return Splits(SAMPLE, query=query, train=database, database=database)


@dataclass(kw_only=True, eq=False, repr=False)
class FashionSample(RetrievalDataModule):
    """The embedded sample: 500 queries, 5,000 database images, also the train set; 10 classes."""

    def load_splits(self) -> Splits:
        """Read the file in the package, see :func:`load_sample`."""
        return load_sample()
