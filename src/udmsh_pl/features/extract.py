"""Run a frozen backbone over a list of images once, and keep its features on disk.

A list that grew costs what is new in it: rows of other stores of the cache are copied.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from udmsh_pl.features.shards import Shard, drop, join
from udmsh_pl.features.store import Arrays, FeatureWriter, known_rows, open_features, store_facts
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform, view_transform
from udmsh_pl.images.usable import Reasons
from udmsh_pl.safe.files import sha256_json
from udmsh_pl.safe.profile import clock

# raise it when the meaning of stored features changes, so that old stores are left alone; 2: Pillow
# resizes, profiles are converted
FORMAT = 2
BLOCK = 8  # batches between two safe points
Key = dict[str, Any]  # everything that decides features
Contents = list[bytes] | None  # digests of images; None in memory


class StoredFeatures(NamedTuple):
    """Features of a list of images."""

    name: str  # identifies what is in the arrays
    arrays: Arrays  # a row for each image that can be decoded, in the order of the list
    broken: Reasons  # names of the others, and why


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
        workers: processes that decode images, about; see :func:`decoding_workers`
    """

    cache_dir: Path
    backbone: str
    weights: str | None = None
    image_size: int | None = None
    grid: int = 2
    runner: Runner = "auto"
    batch_size: int = 64
    workers: int = 2

    def stored(self, images: ImageList, views: int = 0, seed: int = 0) -> StoredFeatures:
        """Features of the images, extracted where the cache does not have them; images that were in
        another list, under whatever name, are not extracted again.

        Arrays are float16, ``global_feature [N, D]`` and ``feature_map [N, C, grid, grid]``; of
        random ``views`` of each image, ``views [N, V, D]`` and ``view_maps [N, V, C, grid, grid]``.
        An absent image is refused, and a store that cannot be written or read.
        """
        contents = contents_of(images, self.cache_dir)
        key = self.key(images, views, seed, contents)
        directory, found = self._look_up(key)
        if found is None:
            with _locked(directory):  # a second run waits for the first instead of repeating it
                found = open_features(directory) or self._make(images, directory, key, contents)
        broken = store_facts(directory).broken
        by_name = {images.names[row]: why for row, why in broken.items()}
        return StoredFeatures(directory.name, found, by_name)

    def is_stored(self, images: ImageList, views: int = 0, seed: int = 0) -> bool:
        """Whether the cache has what :meth:`stored` gives."""
        return self._look_up(self.key(images, views, seed))[1] is not None

    def make_shard(
        self, images: ImageList, shard: Shard, views: int = 0, seed: int = 0, key: Key | None = None
    ) -> bool:
        """Make a part of what :meth:`stored` gives; whether the whole is there now.

        ``images`` are all of them, ``key`` is of :meth:`key`; errors are those of :meth:`stored`.
        """
        contents = contents_of(images, self.cache_dir)
        key, batch = key or self.key(images, views, seed, contents), self._batch(views)
        directory, found = self._look_up(key)
        every = [Shard(number, shard.of) for number in range(shard.of)]
        parts = [one.place(directory) for one in every if len(one.rows(len(images), batch))]
        own, rows = shard.place(directory), shard.rows(len(images), batch)
        if found is None and len(rows):
            with _locked(own):
                if open_features(directory) is None and open_features(own) is None:
                    self._extract(images, own, key | {"shard": str(shard)}, rows, contents)
        with _locked(directory):
            if open_features(directory) is None:
                return join(directory, key, len(images), self._shapes(views), parts, contents)
            drop(parts)  # of a joining that was killed at its end
            return True

    def key(self, images: ImageList, views: int, seed: int, contents: Contents = None) -> Key:
        """Everything that decides the features of ``images``, in a form that JSON can hold. The
        runner is left out: runners differ by less than float16 can show.
        """
        if contents is None:
            contents = contents_of(images, self.cache_dir)
        # on a disk: how they are decoded
        facts: Key = {} if images.pixels is not None else {"upright": images.upright}
        facts |= {"images": images_id(images, contents), "rows": len(images)}
        facts |= {"backbone": self.backbone, "weights": weights_id(self.backbone, self.weights)}
        facts |= {"image_size": self.image_size, "grid": self.grid}
        return facts | {"views": views, "seed": seed, "format": FORMAT}

    def _look_up(self, key: Key) -> tuple[Path, Arrays | None]:
        """Where the features are, or will be; stores of 0.1.0 had the runner in their key."""
        runners = sorted(("torch", "openvino"), key=lambda runner: runner != self._runner())
        for facts in (key, *({**key, "runner": runner} for runner in runners)):
            found = open_features(self.directory(facts))
            if found is not None:
                return self.directory(facts), found
        return self.directory(key), None

    def directory(self, key: Key) -> Path:
        """Folder of the store whose :meth:`key` is ``key``."""
        return self.cache_dir.expanduser() / f"{self._prefix(key)}{sha256_json(key)[:16]}"

    def _prefix(self, key: Key) -> str:
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

    def _make(self, images: ImageList, directory: Path, key: Key, contents: Contents) -> Arrays:
        """Make a store: copy the rows of other stores, extract the rest."""
        every = range(len(images))
        if contents is None:
            return self._extract(images, directory, key, every, None)
        known = known_rows(directory.parent, self._prefix(key), key)
        fresh = [row for row in every if contents[row] not in known.places]
        if len(fresh) == len(images):
            return self._extract(images, directory, key, every, contents)
        made: list[Path] = []
        if fresh:  # a store of their own, until they are in this one: a kill loses nothing
            part, own = images.select(fresh), [contents[row] for row in fresh]
            part_key = self.key(part, key["views"], key["seed"], own)
            made = [self.directory(part_key)]
            with _locked(made[0]):
                if open_features(made[0]) is None:
                    self._extract(part, made[0], part_key, range(len(part)), own)
            known = known_rows(directory.parent, self._prefix(key), key)
        shapes, runners = self._shapes(key["views"]), {self._runner(), *known.runners}
        writer = FeatureWriter(directory, key, len(images), shapes, runners, contents)
        found = writer.copy(known.stores, [known.places[one] for one in contents])
        drop(made)
        return found

    def _extract(
        self, images: ImageList, directory: Path, key: Key, rows: range, contents: Contents
    ) -> Arrays:
        views, seed, shapes = key["views"], key["seed"], self._shapes(key["views"])
        info = backbone_info(self.backbone, self.weights)
        size = self.image_size or info.image_size
        kept = None if "shard" in key else contents
        writer = FeatureWriter(directory, key, len(rows), shapes, [self._runner()], kept)
        transform = view_transform(size) if views else eval_transform(size)
        at_least = None if views else 2 * size
        dataset = RowPixels(images, transform, rows[writer.done :], views, seed, contents, at_least)
        gpus = gpu_count() if self._runner() == "torch" else 0
        batch = self._batch(views) * max(1, gpus)
        workers = decoding_workers(self.workers, gpus) if len(dataset) > 8 * batch else 0
        network = self.backbone, self.weights, weights_id(self.backbone, self.weights)
        with clock("backbone"):
            forward = forward_of(*network, self._runner(), size, self.grid)
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
    """Append features of ``rows`` of a list from where the store was left, with a bar on stderr.

    ``found`` holds both features of each batch, and why each of its pictures cannot be decoded.
    """
    every = 0.5 if sys.stderr.isatty() else 10  # seconds between lines: a log file stays short
    name, done = f"{what}, {writer.bytes_needed / 1e6:.0f} MB", writer.done
    pending: list[dict[str, NDArray[Any]]] = []
    broken: dict[int, str] = {}
    row = rows.start + done
    with tqdm(total=len(rows), initial=done, unit="img", desc=name, mininterval=every) as bar:
        for number, (parts, reasons) in enumerate(found, 1):
            good = [at for at, reason in enumerate(reasons) if not reason]
            block = {
                name: part.reshape(-1, *shape)[good]
                for (name, shape), part in zip(writer.shapes.items(), parts, strict=True)
            }
            for kind, values in block.items():
                largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), initial=0)
                for at in np.flatnonzero(~(largest <= np.finfo(np.float16).max)).tolist():
                    raise InputError(
                        f"{names[row + good[at]]}: the backbone's {kind} is {largest[at]:.3g}, "
                        "beyond what can be stored (65504); give other --model.weights or "
                        "--model.backbone"
                    )
            pending.append(block)
            broken |= {row + at: reason for at, reason in enumerate(reasons) if reason}
            row += len(reasons)
            bar.update(len(reasons))
            if number % BLOCK == 0 or row == rows.stop:
                joined = {n: np.concatenate([one[n] for one in pending]) for n in writer.shapes}
                writer.append(joined, broken)
                pending.clear()
                broken.clear()
