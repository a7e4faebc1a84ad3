"""Run a frozen backbone over a list of images once, and keep what it says on disk."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm import tqdm

from udmsh_pl.backbones import backbone_info, weights_id
from udmsh_pl.features.decoding import RowPixels, ahead, decoding_workers
from udmsh_pl.features.forward import Runner, forward_of, gpu_count
from udmsh_pl.features.shards import Shard, drop, join, shards_with_rows
from udmsh_pl.features.store import Arrays, FeatureWriter, open_features
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform, view_transform

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
        runner: ``torch``, on all GPUs there are; ``openvino`` (extra ``udmsh-pl[extract]``; four
            times faster on a CPU, results within 1e-4 of each other), or ``auto``: OpenVINO where
            it is installed and there is no GPU. A store notes it, but serves any runner
        batch_size: images a forward pass
        workers: processes that decode images, at least; see :func:`decoding_workers`
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
        directory, found = self._look_up(key)
        if found is None:
            # a second run waits for the first instead of repeating it
            with _locked(directory):
                found = open_features(directory) or self._extract(
                    images, directory, key, range(len(images))
                )
        return StoredFeatures(directory.name, found)

    def is_stored(self, images: ImageList, views: int = 0, seed: int = 0) -> bool:
        """Whether the cache has what :meth:`stored` gives."""
        return self._look_up(self.key(images, views, seed))[1] is not None

    def make_shard(
        self,
        images: ImageList,
        shard: Shard,
        views: int = 0,
        seed: int = 0,
        key: dict[str, Any] | None = None,
    ) -> bool:
        """Make a part of what :meth:`stored` gives; whether the whole is there now.

        Args:
            images: all of them
            shard: which part
            views: as in :meth:`stored`
            seed: as in :meth:`stored`
            key: what :meth:`key` gives, where it is known: it looks at every file

        Raises:
            InputError: as :meth:`stored`.
        """
        key, batch = key or self.key(images, views, seed), self._batch(views)
        directory, found = self._look_up(key)
        shards = shards_with_rows(shard.of, len(images), batch)
        parts = [one.place(directory) for one in shards]
        if found is None and shard in shards:
            own, of = shard.place(directory), f"{shard.number + 1}/{shard.of}"
            with _locked(own):
                if open_features(directory) is None and open_features(own) is None:
                    rows = shard.rows(len(images), batch)
                    self._extract(images, own, key | {"shard": of}, rows)
        with _locked(directory):
            if open_features(directory) is None:
                return join(directory, key, len(images), self._shapes(views), parts)
            drop(parts)  # of a joining that was killed at its end
            return True

    def key(self, images: ImageList, views: int, seed: int) -> dict[str, Any]:
        """Everything that decides the features of ``images``, in a form that JSON can hold.

        Not the runner: its results differ by less than what is stored can tell.
        """
        facts = asdict(self) | {
            "weights": weights_id(self.backbone, self.weights),
            "images": _content_id(images),
        }
        for speed_only in ("cache_dir", "batch_size", "workers", "runner"):
            del facts[speed_only]
        if images.pixels is None:  # on a disk: how they are decoded
            facts["upright"] = images.upright
        return facts | {"rows": len(images), "views": views, "seed": seed, "format": FORMAT}

    def _look_up(self, key: dict[str, Any]) -> tuple[Path, Arrays | None]:
        """Where the features are, or will be; stores of 0.1.0 had the runner in their key."""
        own = self._runner()
        others = ("torch", "openvino") if own == "torch" else ("openvino", "torch")
        for facts in (key, *({**key, "runner": runner} for runner in others)):
            directory = self._directory(facts)
            found = open_features(directory)
            if found is not None:
                return directory, found
        return self._directory(key), None

    def _directory(self, key: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        kind = "views" if key["views"] else "clean"
        return self.cache_dir.expanduser() / f"{self.backbone}-{kind}-{digest}"

    def _batch(self, views: int) -> int:
        """Images of a forward pass, all views of which go together."""
        return max(1, self.batch_size // max(views, 1))

    def _shapes(self, views: int) -> dict[str, tuple[int, ...]]:
        info = backbone_info(self.backbone, self.weights)
        map_shape = (info.map_channels, self.grid, self.grid)
        if views:
            return {"views": (views, info.global_dim), "view_maps": (views, *map_shape)}
        return {"global_feature": (info.global_dim,), "feature_map": map_shape}

    def _extract(
        self, images: ImageList, directory: Path, key: dict[str, Any], rows: range
    ) -> Arrays:
        views, seed, shapes = key["views"], key["seed"], self._shapes(key["views"])
        info = backbone_info(self.backbone, self.weights)
        size = self.image_size or info.image_size
        writer = FeatureWriter(directory, key, len(rows), shapes, self._runner())
        transform = view_transform(size) if views else eval_transform(size)
        dataset = RowPixels(images, transform, rows[writer.done :], views, seed)
        gpus = gpu_count() if self._runner() == "torch" else 0
        batch = self._batch(views) * max(1, gpus)
        workers = decoding_workers(self.workers, gpus) if len(dataset) > 8 * batch else 0
        loader = DataLoader(dataset, batch, num_workers=workers, pin_memory=gpus > 0)
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
            total=len(rows), initial=writer.done, unit="img", desc=size_told, mininterval=every
        )
        pending: list[dict[str, np.ndarray[Any, Any]]] = []
        with bar:
            for number, pixels in enumerate(ahead(loader), 1):
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
        return "torch" if gpu_count() or find_spec("openvino") is None else "openvino"


def _locked(directory: Path) -> FileLock:
    directory.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(directory.with_name(directory.name + ".lock"))


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
