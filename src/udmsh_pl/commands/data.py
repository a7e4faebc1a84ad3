"""Check a benchmark's images and lists, export its split, or extract its features."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import check_names, read_list, write_list
from udmsh_pl.images.manifest import read_manifest
from udmsh_pl.images.names import printable
from udmsh_pl.images.usable import broken_lines, check_splits, find_broken
from udmsh_pl.images.walk import skipped_line, walk
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.shipped import plan_file, plans
from udmsh_pl.safe.untrusted import exists, reason_of

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule
    from udmsh_pl.runs.cells import Configuration

TAKES_OVERRIDES = True
_MOST_LINES = 50  # of one kind that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh data``; ``--data.*`` goes to Lightning's parser."""
    add = parser.add_argument
    add("action", choices=("check", "split", "extract"))
    add("source", help=f"a yaml, or one of {', '.join(plans())}, then any --data.*; check also "
        "takes a folder of pictures, a list file or a manifest (.csv, .parquet)")  # fmt: skip
    note = "check: folder that a list's paths are below (default: its own)"
    add("--root", type=Path, help=note)
    cores = os.cpu_count() or 1
    add("--workers", type=int, default=cores, help="check: processes that decode")
    note = "extract: this machine's part, 1/4 to 4/4 for four machines with one --data.cache_dir"
    add("--shard", help=note)
    note = "extract: by a Ray cluster, auto for the one of this machine, or HOST:PORT"
    add("--ray", metavar="ADDRESS", help=note)
    add("--write", type=Path, help="split: folder for the three lists")


def run(args: argparse.Namespace) -> int:
    """Check or export; gives the exit status."""
    path = Path(args.source)
    plan = args.source in plans() or path.suffix.lower() in (".yaml", ".yml")
    if args.action == "check" and (path.is_dir() or not plan) and exists(path):
        return run_check_path(path, args.workers, args.root)
    from udmsh_pl.runs.cells import Configuration

    configuration = Configuration(plan_file(args.source), args.overrides)
    datamodule = configuration.datamodule()
    datamodule.download()
    if args.action == "check":
        return run_check(datamodule.splits, args.workers)
    if args.action == "extract":
        return run_extract(configuration, datamodule, args.ray, args.shard)
    if args.write is None:
        raise InputError("udmsh data split needs --write DIRECTORY")
    return run_split(datamodule.splits, args.write)


def run_extract(
    configuration: "Configuration", data: "RetrievalDataModule", ray: str | None, part: str | None
) -> int:
    """Extract all features by a Ray cluster, or a part as ``1/4``; the last machine joins them."""
    waiting = []
    if ray:
        from udmsh_pl.runs import on_ray

        if part is not None:
            raise InputError("--ray makes its own parts; leave out --shard")
        with on_ray.cluster(ray, configuration, [data.cache_dir]) as place:
            on_ray.extract(place, data)
    else:
        from udmsh_pl.features.shards import Shard

        shard = Shard.parse(part or "1/1")
        for name, images, views in data.stores():
            if not data.feature_extractor.make_shard(images, shard, views):
                waiting.append(f"{views} views of {name}" if views else name)
    missing = f"shard {part} is done; other shards still lack {', '.join(waiting)}"
    print(missing if waiting else f"all features are in {data.cache_dir}")
    return 0


def run_check(splits: Splits, workers: int) -> int:
    """Check all images and print table, fingerprint and problems; gives 1 where there are any."""
    report = check_splits(splits, workers)
    print(f"{splits.protocol.dataset} {splits.protocol.name}")
    print(f"{report.table}\nfingerprint {report.fingerprint}")
    _print_skipped(splits.skipped)
    for note in report.notes:
        print(printable(f"note: {note}"))
    return _print_problems(report.problems)


def run_check_path(path: Path, workers: int, root: Path | None = None) -> int:
    """Decode all pictures of a folder, or those of a list or manifest below ``root`` (its folder),
    and print problems and what was left out; gives 1 where one cannot be read.
    """
    skipped: Mapping[str, str] = {}
    names: list[str] | None = None
    root = root or path.parent
    if path.is_dir():
        found, root = walk(path), path
        names, skipped = list(found.files), found.skipped
    elif path.suffix.lower() in (".csv", ".parquet", ".pq"):
        parts = read_manifest(path, root).values()
        names = list(dict.fromkeys(name for part in parts for name in part.names))
    if names is None:
        images = read_list(path, root, labels="any")
    else:
        images = ImageList(names, np.zeros((len(names), 0), np.bool_), root)
    if not len(images):
        problem = f"no images here ({skipped_line(skipped)})"
        raise InputError(f"{path}: {problem}; give the folder of your images")
    broken = find_broken(images, workers=workers)
    print(f"{path}: {len(images):,} pictures, {len(broken):,} of them unreadable")
    _print_skipped(skipped)
    return _print_problems(broken_lines(broken, images, "--root"))


def _print_skipped(skipped: Mapping[str, str]) -> None:
    if skipped:
        print(f"{len(skipped):,} left out:")
        _print_some([f"  {name}: {reason}" for name, reason in skipped.items()])


def _print_problems(problems: Sequence[str]) -> int:
    _print_some([f"problem: {problem}" for problem in problems])
    many = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
    print(f"{many}, see above for what mends them" if problems else "all is well")
    return 1 if problems else 0


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:_MOST_LINES]:
        print(printable(line))
    if len(lines) > _MOST_LINES:
        print(f"... and {len(lines) - _MOST_LINES:,} more")


def write_splits(splits: Splits, directory: Path) -> dict[str, Path]:
    """Write ``query.txt``, ``train.txt`` and ``database.txt``, and ``split.yaml``, the data block
    that reads the same rows with the same fingerprint back; gives the path of each list.

    Images in memory (CIFAR-10, the sample) are listed by their name in the official files; such
    lists state a split but hold no images. Names are refused as by :func:`check_names`.
    """
    parts, protocol, database = splits.by_name(), splits.protocol, splits.database
    paths = {name: directory / f"{name}.txt" for name in parts}
    for name, images in parts.items():
        check_names(images, paths[name])  # all before the first is written
    for name, images in parts.items():
        write_list(images, paths[name])
    arguments: dict[str, object] = {name: str(path) for name, path in paths.items()}
    arguments |= {"dataset": protocol.dataset, "protocol": protocol.name, "map_at": protocol.map_at}
    arguments |= {"labels": database.labels.shape[1], "root": str(database.root or ".")}
    arguments |= {"missing": {name: count for name, count in splits.missing.items() if count}}
    if not database.upright:
        arguments["upright"] = False
    if any(name.startswith(("/", "../")) for part in parts.values() for name in part.names):
        arguments["allow_outside"] = True
    # JSON scalars are YAML, so no YAML writer is needed for a flat block.
    lines = [f"    {name}: {json.dumps(value)}" for name, value in arguments.items()]
    header = f"# fingerprint {splits.fingerprint()}\n"
    block = "\n".join(["data:", "  class_path: udmsh_pl.data.ListFiles", "  init_args:", *lines])
    write_text(directory / "split.yaml", header + block + "\n")
    return paths


def run_split(splits: Splits, directory: Path) -> int:
    """:func:`write_splits`, and print where the lists are; gives the exit status 0."""
    try:
        written = write_splits(splits, directory)
    except OSError as error:
        problem = f"cannot be written to ({reason_of(error)}); give another folder"
        raise InputError(f"--write {directory}: {problem}") from error
    for name, path in written.items():
        print(f"{path}: {len(splits.by_name()[name]):,} lines")
    print(f"{directory / 'split.yaml'}: the data block that reads them back")
    print(f"fingerprint {splits.fingerprint()}")
    return 0
