"""Check a benchmark's images and lists, or export its split."""

import argparse
import json
import os
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.files import write_text
from udmsh_pl.images.check import check_splits
from udmsh_pl.images.image_list import Splits
from udmsh_pl.images.list_file import check_names, write_list

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh data``; ``--data.*`` goes to Lightning's parser."""
    parser.add_argument("action", choices=("check", "split"))
    parser.add_argument("config", type=Path, help="a yaml of experiments/; --data.* may follow")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="check: processes that decode")
    parser.add_argument("--write", type=Path, help="split: folder for the three lists")


def run(args: argparse.Namespace) -> int:
    """Check or export; gives the exit status."""
    from udmsh_pl.runners.experiment import Experiment

    datamodule = Experiment.parse(args.config, args.overrides).datamodule()
    datamodule.download()
    if args.action == "check":
        return run_check(datamodule.splits, args.workers)
    if args.write is None:
        raise InputError("udmsh data split needs --write DIRECTORY")
    return run_split(datamodule.splits, args.write)


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
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(
        "all is well"
        if not report.problems
        else f"{len(report.problems)} problems, see above for what mends them"
    )
    return 1 if report.problems else 0


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
    for name, path in write_splits(splits, directory).items():
        print(f"{path}: {len(splits.by_name()[name]):,} lines")
    print(f"{directory / 'split.yaml'}: the data block that reads them back")
    print(f"fingerprint {splits.fingerprint()}")
    return 0
