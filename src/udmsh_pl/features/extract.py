"""Run a frozen backbone over a list of images once, and keep what it says on disk."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from udmsh_pl.backbones import backbone_info, weights_id
from udmsh_pl.features.forward import Runner, forward_of
from udmsh_pl.features.store import Arrays, FeatureWriter, open_features
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import Transform, eval_transform, view_transform

# raise it when the meaning of stored features changes, so that old stores are left alone
FORMAT = 1
BLOCK = 8  # batches between two safe points


class StoredFeatures(NamedTuple):
    """Arrays of a store, and the name that identifies what is in them."""

    name: str
    arrays: Arrays


@dataclass(frozen=True)
class FeatureExtractor:
    """What decides frozen features, and where they are kept.

    Args:
        cache_dir: folder of all feature stores
        backbone: backbone name
        weights: see :func:`udmsh_pl.backbones.build_backbone`
        image_size: side of the square input in pixels; None for the backbone's own
        grid: the feature map is averaged to grid x grid positions
        runner: ``torch``, ``openvino`` (extra ``udmsh-pl[extract]``; four times faster on a CPU,
            results within 1e-4 of each other), or ``auto``: OpenVINO where it is installed and
            there is no GPU
        batch_size: images a forward pass
        workers: processes that decode images, where there are cores to spare or a GPU; else one
            thread does
    """

    cache_dir: Path
    backbone: str
    weights: str | None = None
    image_size: int | None = None
    grid: int = 2
    runner: Runner = "auto"
    batch_size: int = 64
    workers: int = 2

    def clean(self, images: ImageList) -> Arrays:
        """``global_feature [N, D]`` and ``feature_map [N, C, grid, grid]``, float16, of the images
        as they are.
        """
        return self.stored(images).arrays

    def views(self, images: ImageList, count: int, seed: int = 0) -> Arrays:
        """The same two arrays of ``count`` random views of each image, as ``views [N, count, D]``
        and ``view_maps [N, count, C, grid, grid]``.
        """
        return self.stored(images, count, seed).arrays

    def stored(self, images: ImageList, views: int = 0, seed: int = 0) -> StoredFeatures:
        """:meth:`clean` features, or :meth:`views` where ``views`` is not 0, with the name that
        identifies them; extracted where the cache does not have them.

        Raises:
            InputError: an image cannot be read, or the store cannot be written or read.
        """
        key = self.key(images, views, seed)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        name = f"{self.backbone}-{'views' if views else 'clean'}-{digest}"
        directory = self.cache_dir.expanduser() / name
        found = open_features(directory)
        if found is None:
            directory.parent.mkdir(parents=True, exist_ok=True)
            # a second run waits for the first instead of repeating it
            with FileLock(directory.with_suffix(".lock")):
                found = open_features(directory) or self._extract(
                    images, directory, key, self._shapes(views), views, seed
                )
        return StoredFeatures(name, found)

    def key(self, images: ImageList, views: int, seed: int) -> dict[str, Any]:
        """Everything that decides the features of ``images``, in a form that JSON can hold."""
        facts = (
            asdict(self)
            | {"runner": self._runner()}
            | {"weights": weights_id(self.backbone, self.weights), "images": _content_id(images)}
        )
        for speed_only in ("cache_dir", "batch_size", "workers"):
            del facts[speed_only]
        if images.pixels is None:  # on a disk: how they are decoded
            facts["upright"] = images.upright
        return facts | {"rows": len(images), "views": views, "seed": seed, "format": FORMAT}

    def _shapes(self, views: int) -> dict[str, tuple[int, ...]]:
        info = backbone_info(self.backbone, self.weights)
        map_shape = (info.map_channels, self.grid, self.grid)
        if views:
            return {"views": (views, info.global_dim), "view_maps": (views, *map_shape)}
        return {"global_feature": (info.global_dim,), "feature_map": map_shape}

    def _extract(
        self,
        images: ImageList,
        directory: Path,
        key: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        views: int,
        seed: int,
    ) -> Arrays:
        info = backbone_info(self.backbone, self.weights)
        size = self.image_size or info.image_size
        writer = FeatureWriter(directory, key, len(images), shapes)
        if views:
            dataset = _Rows(images, view_transform(size), writer.done, views, seed)
        else:
            dataset = _Rows(images, eval_transform(size), writer.done)
        batch = max(1, self.batch_size // max(views, 1))
        # where the backbone needs every core, processes that decode only get in its way; and
        # starting them takes a few batches
        spare = torch.cuda.is_available() or (os.cpu_count() or 1) > 2 * self.workers
        workers = self.workers if spare and len(dataset) > 8 * batch else 0
        loader = DataLoader(dataset, batch, num_workers=workers)
        forward = forward_of(
            self.backbone,
            self.weights,
            weights_id(self.backbone, self.weights),
            self._runner(),
            size,
            self.grid,
        )
        what = f"{views} views" if views else "features"
        size_told = f"{what}, {writer.bytes_needed / 1e6:.0f} MB"
        every = (
            0.5 if sys.stderr.isatty() else 10
        )  # seconds between lines, so that a log file stays short
        bar = tqdm(
            total=len(images), initial=writer.done, unit="img", desc=size_told, mininterval=every
        )
        pending: list[dict[str, np.ndarray[Any, Any]]] = []
        with bar:
            for number, pixels in enumerate(_ahead(loader), 1):
                block = zip(shapes.items(), forward(pixels.flatten(0, 1)), strict=True)
                pending.append(
                    {
                        name: part.float().cpu().numpy().reshape(-1, *shape)
                        for (name, shape), part in block
                    }
                )
                bar.update(len(pixels))
                if number % BLOCK == 0 or number == len(loader):
                    writer.append(
                        {name: np.concatenate([part[name] for part in pending]) for name in shapes}
                    )
                    pending.clear()
        return writer.finish()

    def _runner(self) -> str:
        if self.runner != "auto":
            return self.runner
        return "torch" if torch.cuda.is_available() or find_spec("openvino") is None else "openvino"


def _ahead(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The loader's batches, each made in a thread while the backbone sees the one before."""
    batches = iter(loader)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


class _Rows(Dataset[Tensor]):
    """Pixels, uint8 ``[V, 3, H, W]``, of each row from ``start`` on; random views depend on (seed,
    row) alone.
    """

    def __init__(
        self, images: ImageList, transform: Transform, start: int, views: int = 0, seed: int = 0
    ) -> None:
        self.images, self.transform, self.start, self.views, self.seed = (
            images,
            transform,
            start,
            views,
            seed,
        )

    def __len__(self) -> int:
        return len(self.images) - self.start

    def __getitem__(self, item: int) -> Tensor:
        row = self.start + item
        image = self.images.load_tensor(row)
        if not self.views:
            return self.transform(image)[None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + row)
            return torch.stack([self.transform(image) for _ in range(self.views)])


def _content_id(images: ImageList) -> str:
    """SHA-256 over the pixels, or over name, size and time of change of each file: stale features
    are never used.
    """
    digest = hashlib.sha256()
    for name in images.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
    if images.pixels is not None:
        digest.update(np.ascontiguousarray(images.pixels).data)
        return digest.hexdigest()
    for row in range(len(images)):
        try:
            facts = images.path(row).stat()
        except OSError:
            images.load(row)  # raises the error that names the list line and the mend
            raise
        digest.update(f"{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
