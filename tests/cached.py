"""A data module of random cached features, for models that train without pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray

from udmsh_pl.data.batches import FeatureRows, TrainLoader, train_loader
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import HashingModule

DIM = 512  # resnet10t's


class CachedFeatures(LightningDataModule):
    """Features in groups, with two views.

    Args:
        rows: train images
        batch: of them in a step
        groups: kinds of images
        teachers: folder where teachers are kept; None keeps none
    """

    def __init__(self, rows: int, batch: int, groups: int, teachers: Path | None = None) -> None:
        super().__init__()
        generator = np.random.default_rng(0)
        kinds = generator.random((groups, DIM)) ** 4
        clean = kinds[np.arange(rows) % groups] + 0.2 * generator.random((rows, DIM))
        maps = clean[:, :, None, None] * generator.random((rows, DIM, 2, 2))
        arrays = {
            "global_feature": clean,
            "feature_map": maps,
            "views": np.stack([clean, clean + 0.1 * generator.random(clean.shape)], axis=1),
            "view_maps": np.stack([maps, maps], axis=1),
        }
        half = {name: array.astype(np.float16) for name, array in arrays.items()}
        self.train_features = TrainFeatures(half, teachers, "key")
        self.rows, self.batch = rows, batch

    def train_dataloader(self) -> TrainLoader:
        trainer: Any = self.trainer
        return train_loader(self.train_features, trainer.lightning_module, self.batch)


def taught(
    model: HashingModule,
    features: TrainFeatures,
    rows: Sequence[int],
    epoch: int = 0,
    labels: NDArray[np.bool_] | None = None,
) -> Batch:
    """The train batch of some rows, with the teacher's part, after the teacher was loaded."""
    arrays = model.train_rows(features)
    known = np.zeros((len(features.arrays["global_feature"]), 1), dtype=bool)
    dataset = FeatureRows(known if labels is None else labels, arrays)
    dataset.set_epoch(epoch)
    return model.teach(dataset.__getitems__(list(rows)))
