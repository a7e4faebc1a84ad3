"""Run a frozen backbone over a list of images once, and keep what it says on disk."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from udmsh_pl.backbones.networks import backbone_info, weights_id
from udmsh_pl.backbones.pixels import Runner, best_runner, forward_of, gpu_count
from udmsh_pl.errors import InputError
from udmsh_pl.features.batches import RowPixels, decoding_workers, passes, row_batches
from udmsh_pl.features.content import contents_of, images_id
from udmsh_pl.features.reuse import Known
from udmsh_pl.features.shards import Shard, drop, join, shards_with_rows
from udmsh_pl.features.store import DTYPE, Arrays, FeatureWriter, open_features, store_facts
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform, view_transform
from udmsh_pl.images.usable import Reasons
from udmsh_pl.safe.profile import clock

# raise it when the meaning of stored features changes, so that old stores are left alone; 2: Pillow
# resizes, profiles are converted
FORMAT = 2
BLOCK = 8  # batches between two safe points


class StoredFeatures(NamedTuple):
    """Features of a list of images.

    Args:
        name: identifies what is in the arrays
        arrays: a row for each image that can be decoded, in the order of the list
        broken: names of the others, and why
    """

    name: str
    arrays: Arrays
    broken: Reasons


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

        Images that were in another list, under whatever name, are not extracted again.

        Raises:
            InputError: an image is absent, or the store cannot be written or read.
        """
        contents = contents_of(images, self.cache_dir)
        key = self.key(images, views, seed, contents)
        directory, found = self._look_up(key)
        if found is None:
            # a second run waits for the first instead of repeating it
            with _locked(directory):
                found = open_features(directory)
                if found is None:
                    found = self._make(images, directory, key, contents)
        broken = store_facts(directory).broken
        return StoredFeatures(
            directory.name, found, {images.names[row]: why for row, why in broken.items()}
        )

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
            key: what :meth:`key` gives, where it is known

        Raises:
            InputError: as :meth:`stored`.
        """
        contents = contents_of(images, self.cache_dir)
        key, batch = key or self.key(images, views, seed, contents), self._batch(views)
        directory, found = self._look_up(key)
        shards = shards_with_rows(shard.of, len(images), batch)
        parts = [one.place(directory) for one in shards]
        if found is None and shard in shards:
            own, of = shard.place(directory), f"{shard.number + 1}/{shard.of}"
            with _locked(own):
                if open_features(directory) is None and open_features(own) is None:
                    rows = shard.rows(len(images), batch)
                    self._extract(images, own, key | {"shard": of}, rows, contents)
        with _locked(directory):
            if open_features(directory) is None:
                return join(directory, key, len(images), self._shapes(views), parts, contents)
            drop(parts)  # of a joining that was killed at its end
            return True

    def key(
        self, images: ImageList, views: int, seed: int, contents: list[bytes] | None = None
    ) -> dict[str, Any]:
        """Everything that decides the features of ``images``, in a form that JSON can hold.

        Not the runner: its results differ by less than what is stored can tell.

        Args:
            images: the images
            views: random views of each; 0 for the images as they are
            seed: of the views
            contents: of the images, where they are known already
        """
        if contents is None:
            contents = contents_of(images, self.cache_dir)
        facts = asdict(self) | {
            "weights": weights_id(self.backbone, self.weights),
            "images": images_id(images, contents),
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
            directory = self.directory(facts)
            found = open_features(directory)
            if found is not None:
                return directory, found
        return self.directory(key), None

    def directory(self, key: dict[str, Any]) -> Path:
        """Folder of the store whose :meth:`key` is ``key``."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.cache_dir.expanduser() / f"{self._prefix(key)}{digest}"

    def _prefix(self, key: dict[str, Any]) -> str:
        return f"{self.backbone}-{'views' if key['views'] else 'clean'}-"

    def _batch(self, views: int) -> int:
        """Images of a forward pass, all views of which go together."""
        return max(1, self.batch_size // max(views, 1))

    def _shapes(self, views: int) -> dict[str, tuple[int, ...]]:
        info = backbone_info(self.backbone, self.weights)
        map_shape = (info.map_channels, self.grid, self.grid)
        if views:
            return {"views": (views, info.global_dim), "view_maps": (views, *map_shape)}
        return {"global_feature": (info.global_dim,), "feature_map": map_shape}

    def _make(
        self, images: ImageList, directory: Path, key: dict[str, Any], contents: list[bytes] | None
    ) -> Arrays:
        """Make a store: of rows that other stores have, and of those that none has."""
        if contents is None:
            return self._extract(images, directory, key, range(len(images)), None)
        known = Known.of(directory.parent, self._prefix(key), key)
        fresh = known.unknown(contents)
        if len(fresh) == len(images):
            return self._extract(images, directory, key, range(len(images)), contents)
        made: list[Path] = []
        if fresh:  # a store of their own, until they are in this one: a kill loses nothing
            part = images.select(fresh)
            own = self.key(part, key["views"], key["seed"], [contents[row] for row in fresh])
            made = [self.directory(own)]
            with _locked(made[0]):
                if open_features(made[0]) is None:
                    rows = [contents[row] for row in fresh]
                    self._extract(part, made[0], own, range(len(part)), rows)
            known = Known.of(directory.parent, self._prefix(key), key)
        shapes = self._shapes(key["views"])
        writer = FeatureWriter(directory, key, len(images), shapes, self._runner(), contents)
        found = known.copy_to(writer, contents)
        drop(made)
        return found

    def _extract(
        self,
        images: ImageList,
        directory: Path,
        key: dict[str, Any],
        rows: range,
        contents: list[bytes] | None,
    ) -> Arrays:
        views, seed, shapes = key["views"], key["seed"], self._shapes(key["views"])
        info = backbone_info(self.backbone, self.weights)
        size = self.image_size or info.image_size
        writer = FeatureWriter(
            directory, key, len(rows), shapes, self._runner(), None if "shard" in key else contents
        )
        transform = view_transform(size) if views else eval_transform(size)
        at_least = None if views else 2 * size
        dataset = RowPixels(images, transform, rows[writer.done :], views, seed, contents, at_least)
        gpus = gpu_count() if self._runner() == "torch" else 0
        batch = self._batch(views) * max(1, gpus)
        workers = decoding_workers(self.workers, gpus) if len(dataset) > 8 * batch else 0
        content = weights_id(self.backbone, self.weights)
        with clock("backbone"):
            forward = forward_of(
                self.backbone, self.weights, content, self._runner(), size, self.grid
            )
        batches = row_batches(dataset, batch, workers, gpus > 0)
        what = f"{views} views" if views else "features"
        _fill(writer, passes(batches, forward), images.names, rows, what)
        return writer.finish()

    def _runner(self) -> Runner:
        return best_runner() if self.runner == "auto" else self.runner


def _locked(directory: Path) -> FileLock:
    directory.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(directory.with_name(directory.name + ".lock"))


def _fill(
    writer: FeatureWriter,
    found: Iterator[tuple[list[NDArray[Any]], list[str]]],
    names: Sequence[str],
    rows: range,
    what: str,
) -> None:
    """Append the features of ``rows`` from where the store was left, with a bar on stderr.

    Args:
        writer: the store
        found: both features of batches, and for each picture why it cannot be decoded, or ``""``
        names: of all images of the list
        rows: of the list, that the store shall hold
        what: for the bar

    Raises:
        InputError: a feature cannot be stored, or the disk is full.
    """
    every = 0.5 if sys.stderr.isatty() else 10  # seconds between lines: a log file stays short
    pending: list[dict[str, NDArray[Any]]] = []
    broken: dict[int, str] = {}
    row = rows.start + writer.done
    with tqdm(
        total=len(rows),
        initial=writer.done,
        unit="img",
        desc=f"{what}, {writer.bytes_needed / 1e6:.0f} MB",
        mininterval=every,
    ) as bar:
        for number, (parts, reasons) in enumerate(found, 1):
            good = [at for at, reason in enumerate(reasons) if not reason]
            block = {
                name: part.reshape(-1, *shape)[good]
                for (name, shape), part in zip(writer.shapes.items(), parts, strict=True)
            }
            _check_storable(block, [names[row + at] for at in good])
            pending.append(block)
            broken |= {row + at: reason for at, reason in enumerate(reasons) if reason}
            row += len(reasons)
            bar.update(len(reasons))
            if number % BLOCK == 0 or row == rows.stop:
                joined = {
                    name: np.concatenate([one[name] for one in pending]) for name in writer.shapes
                }
                writer.append(joined, broken)
                pending.clear()
                broken.clear()


def _check_storable(block: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> None:
    """Refuse features that a store cannot tell from others.

    Args:
        block: arrays ``[n, ...]``
        names: of the n images

    Raises:
        InputError: a value is not finite, or beyond what float16 can hold.
    """
    for name, values in block.items():
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), initial=0)
        for row in np.flatnonzero(~(largest <= np.finfo(DTYPE).max)).tolist():
            raise InputError(
                f"{names[row]}: the backbone's {name} is {largest[row]:.3g}, beyond what can be "
                "stored (65504); are its weights damaged, or its input of another scale?"
            )
