"""Batches of cached rows and images; those of training depend on seed, epoch and step alone.

So any number of processes trains on the same global batches, and a resumed run repeats those of the
first run. :func:`train_loader` makes the loader of a method; on features in memory:

    features = TrainFeatures({"global_feature": ..., "feature_map": ...})
    trainer.fit(UDMSHPlus(bits=64), datamodule=FeatureData(features, batch_size=256))
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from udmsh_pl.features.seeds import seed_of
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.images.ahead import batched
from udmsh_pl.images.image_list import ImageDataset

OF_VIEWS = ("views", "view_maps")  # arrays that hold random views; encoding leaves them alone


class Learner(Protocol):
    """A method, as far as its train batches depend on it."""

    def train_rows(self, features: TrainFeatures) -> Rows:
        """Arrays ``[N, ...]`` whose rows a batch holds."""

    def near_images(self, features: TrainFeatures) -> tuple[NDArray[np.int64], int] | None:
        """Nearest images ``[N, M]`` and how many of them a batch shows beside an image."""


class FeatureRows(Dataset[Batch]):
    """Rows of arrays, fetched a whole batch at a time (torch calls ``__getitems__`` with a batch's
    rows); float16 becomes float32.

    Of ``views [N, V, ...]`` and ``view_maps`` a batch holds two different views of each image,
    ``[B, 2, ...]``. Of ``pictures [N, 1 + V, D]``, an image and its views, it holds ``clean
    [B, D]``, the image; ``shown [B, D]``, one of its pictures; and of the first half of the images
    ``compared [2, ceil(B / 2), D]``, two different ones. Epoch and row alone decide which.

    Args:
        labels: bool [N, L]
        arrays: arrays [N, ...] by name
        rows: the rows that there are; None for all
    """

    def __init__(
        self, labels: NDArray[np.bool_], arrays: Rows, rows: NDArray[np.int64] | None = None
    ) -> None:
        self.labels, self.arrays = labels, arrays
        self.rows = np.arange(len(labels)) if rows is None else rows
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the views that the epoch shows of each image."""
        several = next((self.arrays[n] for n in ("views", "pictures") if n in self.arrays), None)
        if several is None:
            return
        generator = torch.Generator().manual_seed(seed_of(epoch))
        draws = torch.rand(several.shape[:2], generator=generator)
        self.pairs = draws.topk(min(2, several.shape[1])).indices.numpy()
        self.shown = torch.randint(several.shape[1], (len(several),), generator=generator).numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([item]).items()}

    def __getitems__(self, items: list[int]) -> Batch:
        rows = self.rows[items]
        batch = {}
        for name, array in self.arrays.items():
            if name == "pictures":
                half = rows[: -(-len(rows) // 2)]
                batch["clean"] = _tensor(array[rows, 0])
                batch["shown"] = _tensor(array[rows, self.shown[rows]])
                if array.shape[1] > 1:
                    batch["compared"] = _tensor(array[half, self.pairs[half].T])
            elif name in OF_VIEWS:
                batch[name] = _tensor(array[rows[:, None], self.pairs[rows]])
            else:
                batch[name] = _tensor(array[rows])
        batch["labels"] = torch.from_numpy(self.labels[rows])
        batch["index"] = torch.from_numpy(rows)
        return batch


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    found = torch.from_numpy(np.asarray(values))
    return found.float() if found.dtype == torch.float16 else found


class ImagesWithFeatures(Dataset[dict[str, Any]]):
    """An augmented image and the clean one's cached features, to tune under a frozen teacher."""

    def __init__(self, pixels: ImageDataset, features: FeatureRows) -> None:
        self.pixels, self.features = pixels, features
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the random views be those of ``epoch``."""
        self.epoch = epoch
        self.features.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.epoch, row))
            return self.features[row] | self.pixels[row]


class Shuffle(DistributedSampler[int]):
    """All rows in an order that seed and epoch decide, dealt in turn to ``world`` processes.

    Batch t of all processes together holds the rows of batch t of one process whose batches are
    ``world`` times larger. Lightning announces the epoch with ``set_epoch`` before its first batch.

    With ``near``, each batch keeps its first images and replaces the others by some of their
    nearest: a random batch has hardly any near pair.

    Args:
        dataset: the dataset of the rows
        world: processes
        rank: number of this one
        limit: rows that each process is dealt, so that all see the same number of batches
        near: nearest images, rows [N, M], and the number of them that a batch shows beside an image
        batch_size: rows a batch, for ``near``
    """

    def __init__(
        self, dataset: FeatureRows | ImagesWithFeatures, world: int, rank: int, limit: int,
        near: tuple[NDArray[np.int64], int] | None = None, batch_size: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(dataset, world, rank, shuffle=True, seed=seed_of(0), drop_last=True)
        self.of_epoch, self.limit, self.near, self.batch_size = dataset, limit, near, batch_size
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order, and the dataset's random views, of ``epoch``."""
        super().set_epoch(epoch)
        self.of_epoch.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rows = list(super().__iter__())[: self.limit]
        if self.near is not None and self.near[1]:
            steps = enumerate(batched(rows, self.batch_size))
            rows = [row for step in steps for row in self._with_near(*step, *self.near)]
        return iter(rows[self.skip :])

    def _with_near(
        self, step: int, rows: list[int], nearest: NDArray[np.int64], count: int
    ) -> list[int]:
        """The first of a step's rows, and some of their nearest in the place of the others."""
        first = np.array(rows[: -(-len(rows) // (1 + count))], dtype=np.int64)
        of = first[np.arange(len(rows) - len(first)) % len(first)]
        draw = np.random.default_rng(seed_of(self.epoch, step))
        others = nearest[of, draw.integers(nearest.shape[1], size=len(of))]
        return [*first.tolist(), *others.tolist()]

    def __len__(self) -> int:
        return self.limit


class TrainLoader(DataLoader[Batch]):
    """A loader that goes on inside an epoch: Lightning keeps its state in checkpoints."""

    _place: tuple[int, int] = (0, 0)  # epoch, and how many of its batches are done
    _resume: tuple[int, int] = (0, 0)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator, so that worker processes start at the first batch, when the epoch has been
        # announced
        epoch = getattr(self.sampler, "epoch", 0)
        done = self._resume[1] if self._resume[0] == epoch else 0
        if isinstance(self.sampler, Shuffle):
            self.sampler.skip = done * (self.batch_size or 1)
        for number, batch in enumerate(super().__iter__(), done + 1):
            self._place = epoch, number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were given."""
        return {"epoch": self._place[0], "batches": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches that ``state`` counts, in its epoch."""
        self._resume = state["epoch"], state["batches"]


def whole_batch(batch: Any) -> Any:
    """Return a batch that is collated already."""
    return batch


def train_loader(
    features: TrainFeatures, learner: Learner | None, batch_size: int,
    labels: NDArray[np.bool_] | None = None, pixels: ImageDataset | None = None, workers: int = 0,
    world: int = 1, rank: int = 0,
) -> TrainLoader:  # fmt: skip
    """Shuffled train batches of equal size; rows that do not fill the last batch wait for another
    epoch.

    Args:
        features: of the train images
        learner: the method, which says what a batch holds; None for all cached features
        batch_size: rows a batch, of all processes together
        labels: bool [N, L]; None for images without labels
        pixels: the images, for a backbone that is trained; None for cached features alone
        workers: processes that decode images
        world, rank: processes that share each batch, and the number of this one; with a frozen
            backbone each has the whole batch
    """
    count = len(features.arrays["global_feature"])
    whole = min(batch_size, count)
    share, steps = max(1, whole // world), count // whole
    if world > 1 and whole % world:
        rank_zero_warn(f"{world} processes cannot share a batch of {whole}: {share} each")
    arrays: Rows = dict(features.arrays) if learner is None else learner.train_rows(features)
    cached = FeatureRows(np.zeros((count, 0), dtype=bool) if labels is None else labels, arrays)
    rows = cached if pixels is None else ImagesWithFeatures(pixels, cached)
    near = None if learner is None else learner.near_images(features)
    sampler = Shuffle(rows, world, rank, steps * share, near, share)
    collate, workers = (whole_batch, 0) if pixels is None else (None, workers)  # rows need none
    return TrainLoader(
        rows, batch_size=share, sampler=sampler, drop_last=True, num_workers=workers,
        collate_fn=collate,
    )  # fmt: skip


class FeatureData(LightningDataModule):
    """Train features alone, for ``trainer.fit(model, datamodule=FeatureData(features, 256))``."""

    def __init__(self, features: TrainFeatures, batch_size: int) -> None:
        super().__init__()
        self.train_features, self.batch_size = features, batch_size

    def train_dataloader(self) -> TrainLoader:
        """Batches of what the trainer's method learns from."""
        trainer: Any = self.trainer
        return train_loader(self.train_features, trainer.lightning_module, self.batch_size)
