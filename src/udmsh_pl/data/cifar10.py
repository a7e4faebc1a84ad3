"""CIFAR-10: 60,000 images of 32 x 32 pixels in 10 classes, under the splits of hashing papers."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torchvision import datasets

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.data.official import drawn_splits, refuse_failed_download, torchvision_images
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol, draw_per_label, named

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_OFFICIAL = Protocol(
    "cifar10", "10k-50k", queries=10_000, train=50_000, database=50_000, labels=10, map_at=1000,
    licence="none stated; cite Krizhevsky 2009", home=HOME,
    paper="the official test and training images; SSDH (Yang et al., IJCAI 2018) and its "
    "successors",
)  # fmt: skip
_CNNH = "Xia et al., CNNH, AAAI 2014; the random draw is ours, since theirs is not published"
PROTOCOLS = {
    "10k-50k": _OFFICIAL,
    "10k-50k-5k": replace(_OFFICIAL, name="10k-50k-5k", train=5_000),
    "1k-59k": replace(
        _OFFICIAL, name="1k-59k", queries=1_000, train=5_000, database=59_000, map_at=5000,
        paper=_CNNH,
    ),
}  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10(RetrievalDataModule):
    """CIFAR-10, downloaded through torchvision.

    The default is ``10k-50k``: its split is official, so nobody's random draw stands between two
    numbers.

    Args:
        root: folder of the download; an unpacked ``cifar-10-batches-py`` in it is used
        protocol: ``10k-50k`` (official test images are the queries, 50,000 database = train
            images), ``10k-50k-5k`` (the same with 500 train images a class), or ``1k-59k`` (100
            queries and 500 train images a class drawn from all 60,000; the database is all but the
            queries)
        split_seed: decides what the last two draw
    """

    root: Path = Path("datasets")
    protocol: str = "10k-50k"
    split_seed: int = 0

    def download(self) -> None:
        """Fetch what is not there yet, through torchvision."""
        with refuse_failed_download("CIFAR-10", HOME, self.root / "cifar-10-batches-py"):
            datasets.CIFAR10(str(self.root), download=True)

    def load_splits(self) -> Splits:
        """Read the official files, whose MD5 is checked, and split them.

        Names are ``test/NNNNN`` and ``train/NNNNN``, rows of the official batches in their order.
        """
        protocol, root = named(PROTOCOLS, self.protocol), self.root
        missing = (
            f"{root}/cifar-10-batches-py: the files of CIFAR-10 are not there or not the official "
            "ones; let the machine download them, or unpack cifar-10-python.tar.gz of "
            f"{HOME} in {root}"
        )
        test, train = torchvision_images(datasets.CIFAR10, root, "CIFAR-10", missing)
        if protocol.name == "10k-50k":
            return Splits(protocol, query=test, train=train, database=train)
        if protocol.name == "10k-50k-5k":
            rows = draw_per_label(train.labels, {"train": 500}, self.split_seed)
            return Splits(protocol, query=test, train=train.select(rows["train"]), database=train)
        labels = np.concatenate([test.labels, train.labels])
        pixels = np.concatenate([test.pixels, train.pixels])
        both = ImageList([*test.names, *train.names], labels, pixels=pixels, source="CIFAR-10")
        rows = draw_per_label(labels, {"query": 100, "train": 500}, self.split_seed)
        return drawn_splits(protocol, both, rows)
