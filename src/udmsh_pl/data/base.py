"""What every benchmark's data module shares: splits, loaders, and the cache of frozen features."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, backbone_info
from udmsh_pl.backbones.pixels import Runner
from udmsh_pl.data.batches import OF_VIEWS, FeatureRows, TrainLoader, train_loader, whole_batch
from udmsh_pl.errors import InputError, check_class_options
from udmsh_pl.features.content import broken_of
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.features.fused import DIMS, PresentedFeature, fit_presented, present_fused
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.images.image_list import ImageDataset, ImageList, Splits
from udmsh_pl.images.transforms import Transform, eval_transform, view_transform
from udmsh_pl.images.usable import drop_broken


@dataclass(kw_only=True, eq=False, repr=False)
class RetrievalDataModule(LightningDataModule, ABC):
    """Query, train and database images of one protocol, as batches of images or of cached backbone
    features.

    With a frozen backbone (``finetune`` false) batches hold ``global_feature`` float [B, D] and
    ``feature_map`` float [B, C, g, g] from the cache instead of ``image``; train batches also hold
    ``views`` float [B, 2, D] and ``view_maps`` float [B, 2, C, g, g] of two random views of each
    image when ``views`` is set. When fine-tuning, train batches hold ``image`` beside the frozen
    features, which then serve the teacher. All hold ``labels`` bool [B, L] and ``index`` long [B],
    the row in the split.

    Args:
        batch_size: images a batch, of all processes together
        num_workers: processes that decode images
        val_queries: this many train images, drawn with a fixed seed, are the queries of
            ``validate`` against the rest of the train list; test queries are never used for a
            choice. 0 for no validation
        image_size: side of the square input in pixels; None for the backbone's own
        cache_dir: folder of the feature cache
        grid: side of the cached feature map; set by the model
        views: random views of each train image in the cache, two of which go into each train batch
        strict: refuse pictures that cannot be decoded; otherwise they are left out and listed
        extractor: what runs the frozen backbone: ``torch``, ``openvino`` (extra
            ``udmsh-pl[extract]``) or ``auto``
        backbone: backbone; set by the model
        weights: the backbone's weights; set by the model
        finetune: train the backbone too, on images; set by the model
        fused: put fused features in the place of the global ones; set by the model
    """

    batch_size: int = 128
    num_workers: int = 2
    val_queries: int = 500
    image_size: int | None = None
    cache_dir: Path = Path("~/.cache/udmsh-pl")
    grid: int = 2
    views: int = 0
    strict: bool = False
    extractor: Runner = "auto"
    backbone: str = OFFLINE_BACKBONE
    weights: str | None = None
    finetune: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        check_class_options(self)
        super().__init__()
        if self.batch_size < 1:
            raise InputError(f"batch size is {self.batch_size}; give --data.batch_size at least 1")
        if self.views == 1 or self.views < 0:
            raise InputError(f"--data.views is {self.views}; give 0, or at least 2 to compare")
        self._splits: Splits | None = None
        self._features: dict[str, Arrays] = {}
        self._stores: dict[str, str] = {}  # identity of each split's features
        self._is_fused = False  # whether features are fused ones by now

    @abstractmethod
    def load_splits(self) -> Splits:
        """Read the lists of the three splits; must give the same rows in every process."""

    def download(self) -> None:
        """Fetch what can be fetched; called once a machine."""

    @property
    def splits(self) -> Splits:
        """The splits, read once a process; without broken pictures once features are open."""
        if self._splits is None:
            self._splits = self.load_splits()
        return self._splits

    @property
    def feature_extractor(self) -> FeatureExtractor:
        """The frozen backbone and the cache of its features."""
        backbone = self.backbone, self.weights, self.image_size, self.grid, self.extractor
        return FeatureExtractor(self.cache_dir, *backbone, workers=self.num_workers)

    def prepare_data(self) -> None:
        """Download and extract, on one process a machine; the others find the cache filled."""
        self.download()
        self._open_features()

    def setup(self, stage: str | None = None) -> None:
        """Open lists and features in each process."""
        self._open_features()

    def features(self, split: str) -> Arrays:
        """Cached arrays of ``query``, ``train`` or ``database`` (see :class:`FeatureExtractor`)."""
        if split not in self._features:
            self._open_features()
        return self._features[split]

    @property
    def train_features(self) -> TrainFeatures:
        """The train split's cached arrays, and the folder of the teachers fitted to them."""
        arrays = self.features("train")
        if "train" not in self._stores:  # features that came from elsewhere
            return TrainFeatures(arrays)
        folder = self.cache_dir.expanduser() / "teachers"
        return TrainFeatures(arrays, folder, self._stores["train"])

    def feature_keys(self) -> dict[str, str]:
        """Identity of each split's cached features; with fine-tuning, of the train split alone."""
        self._open_features()
        return dict(self._stores)

    def train_dataloader(self) -> TrainLoader:
        """Shuffled train batches of the method's inputs; without a method, of all features."""
        images, trainer = self.splits.train, self.trainer
        pixels = self._pixels(images, view_transform) if self.finetune else None
        workers, world, rank = self.num_workers, 1, 0
        if self.finetune and trainer is not None:  # else every process computes the whole head
            world, rank = trainer.world_size, trainer.global_rank
        learner: Any = None if trainer is None else trainer.lightning_module
        inputs = self.train_features, learner, self.batch_size, images.labels, pixels
        return train_loader(*inputs, workers, world, rank)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Train rows as queries (at most a fifth) and as database; no loaders without labels."""
        order = np.random.default_rng(0).permutation(len(self.splits.train))
        count = min(self.val_queries, len(order) // 5)
        if not count or not self.splits.train.labels.shape[1]:
            return []
        return [self._eval_loader("train", np.sort(one)) for one in np.split(order, [count])]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Two loaders: the query split, then the database; refused where nothing can be scored."""
        if self.splits.query is None or not self.splits.query.labels.shape[1]:
            raise InputError("this data has no labelled queries; `udmsh predict` gives codes")
        return [self._eval_loader("query"), self._eval_loader("database")]

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Query and database, or the database alone when there are no queries."""
        return [self._eval_loader(name) for name in self.splits.by_name() if name != "train"]

    def _eval_loader(self, split: str, rows: NDArray[np.int64] | None = None) -> DataLoader[Batch]:
        images: ImageList = self.splits.by_name()[split]
        if self.finetune:
            pixels = self._pixels(images, eval_transform)
            subset = pixels if rows is None else torch.utils.data.Subset(pixels, rows.tolist())
            return DataLoader(subset, batch_size=self.batch_size, num_workers=self.num_workers)
        stored = FeatureRows(images.labels, _without_views(self.features(split)), rows)
        return DataLoader(stored, batch_size=max(self.batch_size, 512), collate_fn=whole_batch)

    def _pixels(self, images: ImageList, transform: Callable[..., Transform]) -> ImageDataset:
        info = backbone_info(self.backbone, self.weights)
        square = transform(self.image_size or info.image_size, info.mean, info.std)
        return ImageDataset(images, square)

    def stores(self) -> list[tuple[str, ImageList, int]]:
        """Stores of features that are needed: split, its images, views (0: images as they are)."""
        every, train = self.splits.by_name(), self.splits.train
        found = [(name, every[name], 0) for name in (("train",) if self.finetune else every)]
        if every["database"].names == train.names and every["database"].root == train.root:
            found = [one for one in found if one[0] != "database"]
        return [*found, ("train", train, self.views)] if self.views else found

    def _open_features(self) -> None:
        for name in ("query", "database") if self.finetune else ():
            if name in self.splits.by_name():
                broken = broken_of(self.splits.by_name()[name], self.cache_dir, self.num_workers)
                self._splits = drop_broken(self.splits, broken, self.strict)
        for name, _, views in self.stores():
            have = self._features.get(name, {})
            if ("views" if views else "global_feature") not in have:
                images = self.splits.by_name()[name]  # of now: pictures may have been left out
                store, arrays, broken = self.feature_extractor.stored(images, views)
                self._splits = drop_broken(self.splits, broken, self.strict)
                self._features[name] = have | arrays
                self._stores[name] = f"{self._stores.get(name, '')} {store}".strip()
        if self.fused and not self._is_fused:
            self._fuse()
        if not self.finetune and "database" not in self._features:
            self._features["database"] = _without_views(self._features["train"])

    def _fuse(self) -> None:
        """Put fused features in the place of the global ones; the train split fits them."""
        dims = min(DIMS, self._features["train"]["global_feature"].shape[1])
        settings = PresentedFeature(dims, 1.0 if self.views else 0.0)
        state = self.train_features.teacher("fused", settings, fit_presented)
        for name, arrays in self._features.items():
            self._features[name] = present_fused(arrays, name == "train", state)
            self._stores[name] = f"{self._stores[name]} fused"
        self._is_fused = True


def _without_views(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name not in OF_VIEWS}
