"""Fashion-MNIST in full: 10,000 official test images as queries, 60,000 training images as
database.
"""

from dataclasses import dataclass
from pathlib import Path

from torchvision import datasets

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.data.fetch import refuse_failed_download
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits, one_hot
from udmsh_pl.images.protocol import Protocol

PROTOCOL = Protocol(
    dataset="fashion-mnist",
    name="10k-60k",
    queries=10_000,
    train=60_000,
    database=60_000,
    labels=10,
    map_at=1000,
    licence="MIT (Zalando SE)",
    home="https://github.com/zalandoresearch/fashion-mnist",
    paper="ours; images of Xiao, Rasul & Vollgraf, arXiv:1708.07747",
)


def load_fashion_mnist(root: Path) -> Splits:
    """Read the official IDX files under ``root/FashionMNIST/raw``; names are ``test/NNNNN`` and
    ``train/NNNNN``.

    Raises:
        InputError: the files are not there.
    """
    parts: dict[str, ImageList] = {}
    for part in ("test", "train"):
        try:
            official = datasets.FashionMNIST(root, train=part == "train")
        except RuntimeError as error:
            raise InputError(
                f"{root}/FashionMNIST/raw: the files of Fashion-MNIST are not there; let the "
                "machine download them, "
                f"or put the four *-ubyte files of {PROTOCOL.home} in that folder, unpacked"
            ) from error
        parts[part] = ImageList(
            names=[f"{part}/{row:05d}" for row in range(len(official))],
            labels=one_hot(official.targets.numpy(), 10),
            pixels=official.data.numpy(),
            source="Fashion-MNIST",
        )
    return Splits(PROTOCOL, query=parts["test"], train=parts["train"], database=parts["train"])


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
        with refuse_failed_download(
            "Fashion-MNIST", PROTOCOL.home, self.root / "FashionMNIST" / "raw"
        ):
            for train in (False, True):
                datasets.FashionMNIST(self.root, train=train, download=True)

    def load_splits(self) -> Splits:
        """Read the official files, see :func:`load_fashion_mnist`."""
        return load_fashion_mnist(self.root)
