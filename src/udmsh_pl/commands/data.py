"""Check a benchmark's images and lists, export its split, or extract its features."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.check import broken_lines, check_splits
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import check_names, read_list, write_list
from udmsh_pl.images.manifest import read_manifest
from udmsh_pl.images.names import printable
from udmsh_pl.images.usable import find_broken
from udmsh_pl.images.walk import skipped_line, walk
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.shipped import plan_file, plans
from udmsh_pl.safe.untrusted import exists

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule
    from udmsh_pl.runs.cells import Configuration

TAKES_OVERRIDES = True
_MOST_LINES = 50  # of one kind that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh data``; ``--data.*`` goes to Lightning's parser."""
    parser.add_argument("action", choices=("check", "split", "extract"))
    parser.add_argument(
        "source",
        help=f"a yaml, or one of {', '.join(plans())}, --data.* may follow; check: also a folder "
        "of pictures, a list file or a manifest (.csv, .parquet)",
    )
    parser.add_argument(
        "--root", type=Path, help="check of a list or manifest: the folder of its paths (its own)"
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="check: processes that decode")
    note = "extract: this machine's part, 1/4 to 4/4 for four machines with one --data.cache_dir"
    parser.add_argument("--shard", help=note)
    note = "extract: by a Ray cluster, auto for the one of this machine, or HOST:PORT"
    parser.add_argument("--ray", metavar="ADDRESS", help=note)
    parser.add_argument("--write", type=Path, help="split: folder for the three lists")


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
    if args.action == "extract" and args.ray:
        return run_extract_on_ray(configuration, datamodule, args.ray, args.shard)
    if args.action == "extract":
        return run_extract(datamodule, args.shard or "1/1")
    if args.write is None:
        raise InputError("udmsh data split needs --write DIRECTORY")
    return run_split(datamodule.splits, args.write)


def run_extract(data: "RetrievalDataModule", part: str) -> int:
    """Extract a part, as ``1/4``, of every store that training needs; gives the exit status 0.

    The machine whose part is the last one joins all parts.
    """
    from udmsh_pl.features.shards import Shard

    shard, waiting = Shard.parse(part), []
    for name, images, views in data.stores():
        what = f"{views} views of {name}" if views else name
        if not data.feature_extractor.make_shard(images, shard, views):
            waiting.append(what)
    if waiting:
        print(f"shard {part} is there; others are still missing of {', '.join(waiting)}")
    else:
        print(f"all features are in {data.cache_dir}")
    return 0


def run_extract_on_ray(
    configuration: "Configuration", data: "RetrievalDataModule", address: str, part: str | None
) -> int:
    """Extract by a Ray cluster; gives the exit status 0."""
    from udmsh_pl.runs import on_ray

    if part is not None:
        raise InputError("--ray makes its own parts; leave out --shard")
    with on_ray.cluster(address, configuration, [data.cache_dir]) as place:
        on_ray.extract(place, data)
    print(f"all features are in {data.cache_dir}")
    return 0


def run_check(splits: Splits, workers: int) -> int:
    """Check all images and print a table, the fingerprint, and what is off.

    Args:
        splits: what to check.
        workers: processes that decode.

    Returns:
        Exit status: 0 when all is well, 1 when something is off.
    """
    report = check_splits(splits, workers)
    protocol = splits.protocol
    print(f"{protocol.dataset} {protocol.name}")
    print(report.table)
    print(f"fingerprint {report.fingerprint}")
    _print_skipped(splits.skipped)
    for note in report.notes:
        print(printable(f"note: {note}"))
    return _print_problems(report.problems)


def run_check_path(path: Path, workers: int, root: Path | None = None) -> int:
    """Decode all pictures of a folder, a list file or a manifest, and print what is off and what
    was left out.

    Args:
        path: the folder or file.
        workers: processes that decode.
        root: folder that the paths of a list or manifest are relative to; None for its own folder.

    Returns:
        Exit status: 0 when all can be read, 1 when not.

    Raises:
        InputError: no pictures in the folder, or the list or manifest is wrong.
    """
    skipped: Mapping[str, str] = {}
    if path.is_dir():
        found = walk(path)
        skipped = found.skipped
        images = ImageList(list(found.files), np.zeros((len(found.files), 0), np.bool_), path)
    elif path.suffix.lower() in (".csv", ".parquet", ".pq"):
        parts = read_manifest(path, root or path.parent).values()
        names = list(dict.fromkeys(name for part in parts for name in part.names))
        images = ImageList(names, np.zeros((len(names), 0), np.bool_), root or path.parent)
    else:
        images = read_list(path, root or path.parent, labels="any")
    if not len(images):
        raise InputError(
            f"{path}: no images here ({skipped_line(skipped)}); give the folder of your images"
        )
    broken = find_broken(images, workers)
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
    that reads them back.

    Reading them back gives the same rows and the same fingerprint. Images in memory (CIFAR-10, the
    sample) are listed by their name in the official files; such lists tell a split but hold no
    images.

    Returns:
        Path of each list by the split's name.

    Raises:
        InputError: a name cannot stand in a list, see :func:`udmsh_pl.data.lists.check_names`.
    """
    paths = {name: directory / f"{name}.txt" for name in splits.by_name()}
    for name, images in splits.by_name().items():
        check_names(images, paths[name])  # all before the first is written
    for name, images in splits.by_name().items():
        write_list(images, paths[name])
    protocol = splits.protocol
    arguments: dict[str, object] = {name: str(path) for name, path in paths.items()}
    arguments |= {"dataset": protocol.dataset, "protocol": protocol.name, "map_at": protocol.map_at}
    arguments |= {
        "labels": splits.database.labels.shape[1],
        "root": str(splits.database.root or "."),
    }
    arguments |= {"missing": {name: count for name, count in splits.missing.items() if count}}
    if not splits.database.upright:
        arguments["upright"] = False
    if any(
        name.startswith(("/", "../")) for part in splits.by_name().values() for name in part.names
    ):
        arguments["allow_outside"] = True
    # JSON scalars are YAML, so no YAML writer is needed for a flat block.
    lines = [f"    {name}: {json.dumps(value)}" for name, value in arguments.items()]
    header = f"# fingerprint {splits.fingerprint()}\n"
    block = "\n".join(["data:", "  class_path: udmsh_pl.data.ListFiles", "  init_args:", *lines])
    write_text(directory / "split.yaml", header + block + "\n")
    return paths


def run_split(splits: Splits, directory: Path) -> int:
    """Export the lists of a split, see :func:`write_splits`, and print where they are; returns the
    exit status 0.
    """
    try:
        written = write_splits(splits, directory)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"--write {directory}: cannot be written to ({reason}); give another folder"
        ) from error
    for name, path in written.items():
        print(f"{path}: {len(splits.by_name()[name]):,} lines")
    print(f"{directory / 'split.yaml'}: the data block that reads them back")
    print(f"fingerprint {splits.fingerprint()}")
    return 0
