"""Images on their way to a frozen backbone: who decodes them, and one batch ahead of it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from udmsh_pl.images.broken import load_or_blank
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import Transform

CORES = "UDMSH_CORES"  # in the environment: how many are for this one of several workers


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


def ahead(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, list[str]]]:
    """The loader's batches, each made in a thread while the backbone sees the one before."""
    batches = iter(loader)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


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
    ) -> None:
        self.images, self.transform, self.rows = images, transform, rows
        self.views, self.seed, self.contents = views, seed, contents

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, str]:
        row = self.rows[item]
        image, broken = load_or_blank(self.images, row)
        if not self.views:
            return self.transform(image)[None], broken
        own = row if self.contents is None else int.from_bytes(self.contents[row][:6], "little")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + own)
            return torch.stack([self.transform(image) for _ in range(self.views)]), broken
