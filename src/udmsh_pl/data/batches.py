"""Batches of cached rows and images; those of training are a function of seed, epoch and row alone.

So every number of processes trains on the same global batches, and a resumed run on those of the
run that was cut.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from udmsh_pl.features.seeds import seed_of
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.images.image_list import ImageDataset

OF_VIEWS = ("views", "view_maps")  # arrays that hold random views; encoding leaves them alone


class FeatureRows(Dataset[Batch]):
    """Rows of cached features, fetched a whole batch at a time (torch calls ``__getitems__`` with a
    batch's rows).
    """

    def __init__(
        self, labels: NDArray[np.bool_], arrays: Arrays, rows: NDArray[np.int64] | None = None
    ) -> None:
        self.labels, self.arrays = labels, arrays
        self.rows = np.arange(len(labels)) if rows is None else rows
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the two different views that the epoch shows of each image."""
        if "views" in self.arrays:
            draws = torch.rand(
                self.arrays["views"].shape[:2],
                generator=torch.Generator().manual_seed(seed_of(epoch)),
            )
            self.pairs = draws.topk(2).indices.numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([item]).items()}

    def __getitems__(self, items: list[int]) -> Batch:
        rows = self.rows[items]
        batch = {}
        for name, array in self.arrays.items():
            chosen = array[rows[:, None], self.pairs[rows]] if name in OF_VIEWS else array[rows]
            batch[name] = torch.from_numpy(chosen).float()
        batch["labels"] = torch.from_numpy(self.labels[rows])
        batch["index"] = torch.from_numpy(rows)
        return batch


class ImagesWithFeatures(Dataset[dict[str, Any]]):
    """An augmented image together with the cached features of the clean one, for fine-tuning under
    a frozen teacher.
    """

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

    Args:
        dataset: what the rows are of
        world: processes
        rank: number of this one
        limit: rows that each process is dealt, so that all see the same number of batches
    """

    def __init__(
        self, dataset: FeatureRows | ImagesWithFeatures, world: int, rank: int, limit: int
    ) -> None:
        super().__init__(dataset, world, rank, shuffle=True, seed=seed_of(0), drop_last=True)
        self.of_epoch, self.limit = dataset, limit
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order, and the dataset's random views, of ``epoch``."""
        super().set_epoch(epoch)
        self.of_epoch.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(list(super().__iter__())[self.skip : self.limit])

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
    """Collation of what is a batch already."""
    return batch
