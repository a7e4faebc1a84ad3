"""A frozen backbone's pass over pictures, decoded ahead of it so that no core waits."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
    """Global features and pooled maps, float32 ``[B, ...]``, of pixels, uint8 ``[B, 3, S, S]``, and
    what came with each batch. A thread makes a batch while the backbone sees the one before.
    """
    for pixels, others in wait_for("decode", ahead(batches, partial(torch.set_num_threads, 1))):
        with clock("backbone"):
            found = [values.float().cpu().numpy() for values in forward(pixels)]
        yield found, others


def row_batches(
    dataset: "RowPixels", size: int, workers: int, pinned: bool = False
) -> Iterable[tuple[Tensor, list[str]]]:
    """Batches of ``size`` rows: pixels, uint8 ``[B * V, 3, S, S]``, and why pictures are black.

    ``workers`` processes decode, 0 for threads; a GPU reads ``pinned`` memory directly.
    """
    if workers or dataset.views:  # random views draw from the generator of the process
        loader = DataLoader(dataset, size, num_workers=workers, pin_memory=pinned)
        yield from ((pixels.flatten(0, 1), reasons) for pixels, reasons in loader)
        return
    for batch in batched(in_order(dataset.__getitem__, range(len(dataset))), size):
        yield torch.cat([pixels for pixels, _ in batch]), [reason for _, reason in batch]


def decoding_workers(asked: int, gpus: int) -> int:
    """Processes that decode images: ``asked`` or more, or 0 where threads decode.

    A GPU waits for decoding, which then gets every core but one. Without a GPU the backbone takes
    several times longer than decoding: a fourth of the cores decodes, and none where ``asked`` is
    half of the cores or more.
    """
    try:
        cores = int(os.environ.get(CORES, 0)) or len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    if not asked or (cores <= 2 * asked and not gpus):
        return 0
    return max(asked, cores - 1 if gpus else cores // 4)


@dataclass(eq=False)
class RowPixels(Dataset[tuple[Tensor, str]]):
    """Pixels, uint8 ``[V, 3, H, W]``, of some rows, and ``""``; or black ones, and why.

    Random views depend on the seed and the picture's content (in memory: its row) alone, so that a
    list that grows shows the same views.
    """

    images: ImageList
    transform: Transform
    rows: Sequence[int]
    views: int
    seed: int
    contents: Sequence[bytes] | None
    at_least: int | None

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
