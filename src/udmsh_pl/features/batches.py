"""A frozen backbone's pass over pictures, decoded ahead of it so that no core waits."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from udmsh_pl.backbones.pixels import Forward
from udmsh_pl.images.ahead import ahead, batched, in_order
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import Transform
from udmsh_pl.images.usable import load_or_blank
from udmsh_pl.safe.profile import clock, wait_for

CORES = "UDMSH_CORES"  # in the environment: how many are for this one of several workers

T = TypeVar("T")


def passes(
    batches: Iterable[tuple[Tensor, T]], forward: Forward
) -> Iterator[tuple[list[NDArray[Any]], T]]:
    """Global features and pooled maps, float32 ``[B, ...]``, of batches of pixels, uint8
    ``[B, 3, S, S]``, and what came with each batch.

    A batch is made in a thread while the backbone sees the one before.
    """
    for pixels, others in wait_for("decode", ahead(batches, _one_thread)):
        with clock("backbone"):
            found = [values.float().cpu().numpy() for values in forward(pixels)]
        yield found, others


def row_batches(
    dataset: "RowPixels", size: int, workers: int, pinned: bool = False
) -> Iterable[tuple[Tensor, list[str]]]:
    """Batches of ``size`` rows: pixels, uint8 ``[B * V, 3, S, S]``, and why pictures are black.

    Args:
        dataset: the rows
        size: B
        workers: processes that decode; 0 for threads
        pinned: in memory that a GPU reads directly
    """
    if workers or dataset.views:  # random views draw from the generator of the process
        loader = DataLoader(dataset, size, num_workers=workers, pin_memory=pinned)
        yield from ((pixels.flatten(0, 1), reasons) for pixels, reasons in loader)
        return
    for batch in batched(in_order(dataset.__getitem__, range(len(dataset))), size):
        yield torch.cat([pixels for pixels, _ in batch]), [reason for _, reason in batch]


def decoding_workers(asked: int, gpus: int) -> int:
    """Processes that decode images; 0 leaves it to one thread.

    A GPU waits for decoding, which then gets every core but one. Without one the backbone needs the
    cores, and takes several times longer for an image than decoding: a fourth of them decodes,
    and none where that would take half of them.

    Args:
        asked: at least these; 0 for none in any case
        gpus: that run the backbone
    """
    try:
        cores = int(os.environ.get(CORES, 0)) or len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    if not asked:
        return 0
    if gpus:
        return max(asked, cores - 1)
    return max(asked, cores // 4) if cores > 2 * asked else 0


class RowPixels(Dataset[tuple[Tensor, str]]):
    """Pixels, uint8 ``[V, 3, H, W]``, of some rows, and ``""``; or black ones, and why the picture
    cannot be decoded.

    Random views depend on the seed and the picture alone: its content, so that a list which grows
    shows the same views; in memory its row.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        rows: Sequence[int],
        views: int = 0,
        seed: int = 0,
        contents: Sequence[bytes] | None = None,
        at_least: int | None = None,
    ) -> None:
        self.images, self.transform, self.rows = images, transform, rows
        self.views, self.seed, self.contents = views, seed, contents
        self.at_least = at_least

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, str]:
        row = self.rows[item]
        image, broken = load_or_blank(self.images, row, self.at_least)
        if not self.views:
            return self.transform(image)[None], broken
        own = row if self.contents is None else int.from_bytes(self.contents[row][:6], "little")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + own)
            return torch.stack([self.transform(image) for _ in range(self.views)]), broken


def _one_thread() -> None:
    torch.set_num_threads(1)
