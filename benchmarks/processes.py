"""Two processes beside one: extraction in two parts, and a teacher of 50,000 images on two ranks.

    python benchmarks/processes.py [--stages extract teacher] [--pictures CIFAR10]

The teacher is `udmsh-plus`'s, of the pictures that ``database.txt`` of a folder lists, or of
random features around a hundred centres, and trained through ``udmsh fit --trainer.devices 2
--trainer.strategy ddp`` on CPUs. Every tensor that a rank hands to a collective is counted, and
the moment of the first step is noted. Each process has one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from udmsh_pl.data import ListFiles
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.safe.files import write_text

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "gather",
    "scatter", "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single",
    "_broadcast_coalesced",
)  # fmt: skip
QUERIES = 100


class RandomFeatures(RetrievalDataModule):
    """Images without content, whose features are put into the cache."""

    def __init__(self, *, images: int = 50_000, **options: Any) -> None:
        super().__init__(val_queries=0, **options)
        self.images = images

    def load_splits(self) -> Splits:
        """Queries, and as many train images as asked, which are the database too."""
        what = Protocol("random", "random", QUERIES, None, None, 1, None, "none", "", "ours")
        query, train = (
            ImageList(
                [f"{name}{row}" for row in range(count)],
                np.ones((count, 1), dtype=bool),
                pixels=np.zeros((count, 1, 1), dtype=np.uint8),
            )
            for name, count in (("query", QUERIES), ("train", self.images))
        )
        return Splits(what, query, train, train)

    def fill(self) -> None:
        """Write the features, non-negative as after a ReLU."""
        from udmsh_pl.features.store import FeatureWriter

        generator, extractor = np.random.default_rng(0), self.feature_extractor
        centres: dict[str, Any] = {}
        for images in (self.splits.query, self.splits.train):
            key, shapes = extractor.key(images, 0, 0), extractor._shapes(0)
            writer = FeatureWriter(extractor._directory(key), key, len(images), shapes)
            for at in range(0, len(images), 1000):
                which = generator.integers(100, size=min(1000, len(images) - at))
                block = {}
                for name, shape in shapes.items():
                    rows = centres.setdefault(name, generator.random((100, *shape)))[which]
                    noise = generator.standard_normal(rows.shape, dtype=np.float32)
                    block[name] = np.maximum(rows + noise, 0)
                writer.append(block)
            writer.finish()


def rank(notes: Path, arguments: list[str]) -> None:
    """``udmsh ARGUMENTS``, whose collectives, fits and first step are noted."""
    from udmsh_pl.cli import main as udmsh
    from udmsh_pl.features.teacher import TrainFeatures
    from udmsh_pl.models import UDMSHPlus

    seen: dict[str, Any] = {"fits": 0, "bytes": 0, "largest": 0, "calls": 0, "first_step": 0.0}

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            flat = [one for each in given for one in (each if isinstance(each, list) else [each])]
            size = sum(one.nbytes for one in flat if isinstance(one, torch.Tensor))
            seen["bytes"] += size
            seen["largest"] = max(seen["largest"], size)
            seen["calls"] += 1
            return function(*args, **kwargs)

        return call

    for name in COLLECTIVES:
        for module in (dist, dist.distributed_c10d):
            if hasattr(module, name):
                setattr(module, name, counted(getattr(module, name)))
    teacher, step = TrainFeatures.teacher, UDMSHPlus.training_step

    def teacher_noted(self: TrainFeatures, name: str, settings: Any, fit: Any) -> Any:
        def once_more(*given: Any) -> Any:
            seen["fits"] += 1
            return fit(*given)

        return teacher(self, name, settings, once_more)

    def step_noted(self: UDMSHPlus, *args: Any) -> Any:
        if not seen["first_step"]:
            seen["first_step"] = time.time() - float(os.environ["BEGAN"])
            seen["first_step_cpu"] = time.process_time()
            seen["mapped"] = ".safetensors" in Path("/proc/self/maps").read_text()
            seen["parameters"] = sum(one.nbytes for one in self.parameters() if one.requires_grad)
        return step(self, *args)

    TrainFeatures.teacher = teacher_noted  # type: ignore[method-assign]
    UDMSHPlus.training_step = step_noted  # type: ignore[method-assign, assignment]
    try:
        udmsh(arguments)
    finally:
        seen["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        write_text(notes / f"{os.environ.get('LOCAL_RANK', '0')}.json", json.dumps(seen))


def teacher(images: int, folder: Path, pictures: Path | None, size: int) -> str:
    """A first and a second training on two ranks."""
    cache = folder / "cache"
    if pictures is None:
        RandomFeatures(images=images, cache_dir=cache).fill()
        told, data = "random features", ["processes.RandomFeatures", "--data.images", str(images)]
    else:
        lists = {"root": pictures, "database": pictures / "database.txt"}
        real = ListFiles(**lists, image_size=size, cache_dir=cache, num_workers=0)
        real.prepare_data()
        images, told = len(real.splits.train), f"pictures at {size} px"
        data = ["ListFiles", "--data.image_size", str(size), "--data.val_queries", "0"]
        data += [word for name, path in lists.items() for word in (f"--data.{name}", str(path))]
    options = [
        "fit", "--model", "UDMSHPlus", "--data", *data, "--data.cache_dir", str(cache),
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
        "--trainer.max_steps", "20", "--trainer.default_root_dir", str(folder),
        "--trainer.enable_progress_bar", "false", "--trainer.logger", "false",
    ]  # fmt: skip
    lines = []
    for run in ("first", "second"):
        notes = folder / run
        command = [sys.executable, __file__, "--rank", str(notes), *options]
        together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
        began = {**os.environ, **together, "BEGAN": str(time.time())}
        own = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(2)]
        ranks = [subprocess.Popen(command, env=began | variables) for variables in own]  # as srun
        assert [one.wait() for one in ranks] == [0, 0]
        for path in sorted(notes.glob("*.json")):
            one = json.loads(path.read_text())
            lines.append(
                f"| {run} | {path.stem} | {one['fits']} | {'yes' if one['mapped'] else 'no'} | "
                f"{one['first_step']:.1f} | {one['first_step_cpu']:.1f} | "
                f"{one['largest'] / 1e6:.1f} | {one['parameters'] / 1e6:.1f} | "
                f"{one['peak_mb']:.0f} |"
            )
    [kept] = cache.glob("teachers/*.safetensors")
    rows = "\n".join(lines)
    return f"""## A teacher of {images:,} images on two ranks

`udmsh-plus` on {told}; load of the machine at the end: {os.getloadavg()[0]:.1f} on
{os.cpu_count()} cores. The teacher's file has {kept.stat().st_size / 1e6:.0f} MB. "Largest": of
all tensors that a rank gave to one call of a collective in 20 steps; beside it what DDP's own
code, which is not counted, averages in a step: the gradients of the head.

| run | rank | fitted | opened by map | s to the first step | CPU s till then | largest, MB | \
gradients, MB | peak memory, MB |
|---|---:|---:|---|---:|---:|---:|---:|---:|
{rows}
"""


def extraction(images: int, folder: Path, rounds: int = 3) -> str:
    """One process beside two with a part each, in turns."""
    took: dict[str, list[tuple[float, float]]] = {"one": [], "two": []}
    config = folder / "extract.yaml"
    write_text(
        config,
        "model: {class_path: UDMSHPlus}\n"
        f"data: {{class_path: processes.Sample, init_args: {{images: {images}}}}}\n"
        "reproduce: {methods: {own: null}, bits: [32], seeds: [0], ks: [null]}\n",
    )
    for number in range(rounds):
        for way, parts in (("one", ["1/1"]), ("two", ["1/2", "2/2"])):
            cache = folder / f"{way}{number}"
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            command = [sys.executable, "-m", "udmsh_pl", "data", "extract", str(config)]
            command += ["--data.cache_dir", str(cache), "--data.num_workers", "0", "--shard"]
            running = [
                subprocess.Popen([*command, part], cwd=Path(__file__).parent) for part in parts
            ]
            if any(process.wait() for process in running):
                raise SystemExit("extraction failed")
            seconds = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            took[way].append((seconds, cpu))
            digests = sorted(
                facts["sha256"]
                for meta in cache.glob("*/meta.json")
                for facts in json.loads(meta.read_text())["arrays"].values()
            )
            if number == 0 and way == "one":
                expected = digests
            assert digests == expected, "features differ"
    wall = [one[0] / two[0] for one, two in zip(took["one"], took["two"], strict=True)]
    cost = [one[1] / two[1] for one, two in zip(took["one"], took["two"], strict=True)]
    lines = [
        f"| {way} | {np.median([one[0] for one in took[way]]):.1f} | "
        f"{np.median([one[1] for one in took[way]]):.1f} |"
        for way in took
    ]
    return f"""## Extraction of {images:,} images by one process and by two

One thread each, start of the program and the backbone's conversion included; medians of {rounds}
rounds in turns; load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.
The features are equal to the last bit.

| processes | seconds | CPU seconds, all together |
|---|---:|---:|
{chr(10).join(lines)}

Two are {np.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f}) times as fast; they cost
{1 / np.median(cost):.2f} times the CPU time of one, so that cores that are free would give
{2 * np.median(cost):.2f}.
"""


class Sample(RetrievalDataModule):
    """The first train images of the embedded sample."""

    def __init__(self, *, images: int = 1024, **options: Any) -> None:
        super().__init__(**options)
        self.images = images

    def load_splits(self) -> Splits:
        """The queries are a hundred others."""
        from udmsh_pl.data.fashion_mnist import load_sample

        whole = load_sample()
        train = whole.train.select(np.arange(self.images))
        query = whole.query.select(np.arange(QUERIES))
        return Splits(whole.protocol, query, train, train)


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        rank(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description="Measure two processes.")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--pictures", type=Path, help="folder with database.txt")
    parser.add_argument("--image-size", type=int, default=64, help="of the pictures")
    parser.add_argument("--extracted", type=int, default=5000)
    parser.add_argument("--stages", nargs="+", default=["extract", "teacher"])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "processes.md"
    )
    args = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        if "extract" in args.stages:
            parts.append(extraction(args.extracted, Path(folder)))
        if "teacher" in args.stages:
            parts.append(teacher(args.images, Path(folder), args.pictures, args.image_size))
    text = "# Two processes beside one\n\n" + "\n".join(parts)
    print(text)
    write_text(args.out, text)


if __name__ == "__main__":
    main()
