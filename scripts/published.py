"""Run published protocols that need no network weights, and print our numbers beside theirs.

    python scripts/published.py --cifar10 DIR

``DIR`` holds ``cifar-10-batches-py`` (the official files), or ``train/<class>/*`` and
``test/<class>/*`` with the same images in another format. The protocol, with every choice that
its source leaves to its code, is in ``experiments/published/README.md``. GIST descriptors of the
60,000 images take minutes; ``--cache FILE.npy`` keeps them.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from udmsh_pl import __version__
from udmsh_pl.baselines import ITQ, LSH, SH, ShallowHash
from udmsh_pl.data import CIFAR10
from udmsh_pl.errors import InputError
from udmsh_pl.reports.environment import git_commit
from udmsh_pl.reports.published import markdown_table, published_rows
from udmsh_pl.reports.table_rows import Result
from udmsh_pl.retrieval import evaluate_codes, pack_codes
from udmsh_pl.safe.files import atomic_path

sys.path.insert(0, str(Path(__file__).parent))  # run by its path, also from a test
from gist import gist

BITS = (8, 16, 24, 32, 48, 64, 96, 128)
QUERIES, TRAIN = 1_000, 5_000
THEIR_ITERATIONS = 3  # of ITQ; the paper's code has 50
CHOICE_DRAWS = 2  # of the table of choices, whose database of 59,000 takes long

Float32s = NDArray[np.float32]
Bools = NDArray[np.bool_]


def cifar10_pixels(root: Path) -> tuple[NDArray[np.uint8], Bools, str]:
    """The 60,000 images uint8 [N, 32, 32, 3], test images first, their labels bool [N, 10], and
    what kind of files they are.

    Raises:
        InputError: they are not under ``root``.
    """
    if (root / "cifar-10-batches-py").is_dir():
        splits = CIFAR10(root=root).load_splits()
        parts = [part for part in (splits.query, splits.train) if part is not None]
        pixels = np.concatenate([part.pixels for part in parts if part.pixels is not None])
        return pixels, np.concatenate([part.labels for part in parts]), "official files"
    classes = sorted(path.name for path in root.glob("train/*") if path.is_dir())
    if not classes:
        raise InputError(
            f"{root} holds neither cifar-10-batches-py nor train/<class>: fetch "
            f"{datasets.CIFAR10.url} (MD5 {datasets.CIFAR10.tgz_md5}), unpack it in a folder and "
            "give --cifar10 that folder"
        )
    files = [
        (path, number)
        for part in ("test", "train")
        for number, name in enumerate(classes)
        for path in sorted((root / part / name).iterdir())
    ]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    labels = np.eye(len(classes), dtype=np.bool_)[[number for _, number in files]]
    suffixes = " and ".join(sorted({path.suffix.lstrip(".").upper() for path, _ in files}))
    return pixels, labels, f"{suffixes} files"


def described(pixels: NDArray[np.uint8], cache: Path | None) -> Float32s:
    """GIST of the images, float32 [N, 512], read from ``cache`` or written to it."""
    if cache is not None and cache.is_file():
        features = np.load(cache)
        if features.shape[0] != len(pixels):
            raise InputError(
                f"{cache} holds {features.shape[0]} descriptors of {len(pixels)} images; remove it"
            )
        return np.asarray(features, dtype=np.float32)
    features = gist(pixels)
    if cache is not None:
        with atomic_path(cache) as partial, partial.open("wb") as stream:
            np.save(stream, features)
    return features


def their_methods(bits: int, seed: int, train: Float32s) -> Iterator[tuple[str, ShallowHash]]:
    """The methods as the published code runs them, fitted to ``train``."""
    lsh = LSH(bits, seed)
    lsh.fit(train)
    lsh.mean = train.mean()  # theirs subtracts one number, the mean over images and dimensions
    yield "lsh", lsh
    sh = SH(bits, seed)
    sh.fit(train)
    yield "sh", sh
    itq = ITQ(bits, seed)
    itq.iterations = THEIR_ITERATIONS
    itq.fit(train)
    yield "itq", itq


def our_methods(bits: int, seed: int, train: Float32s) -> Iterator[tuple[str, ShallowHash]]:
    """The methods as this package has them by default, fitted to ``train``."""
    for method in (LSH, SH, ITQ):
        hashing = method(bits, seed)
        hashing.fit(train)
        yield method.__name__.lower(), hashing


def gist_results(
    features: Float32s,
    labels: Bools,
    seeds: int,
    theirs: bool = True,
    whole_database: bool = False,
    lengths: tuple[int, ...] = BITS,
    queries: int = QUERIES,
    train: int = TRAIN,
) -> list[Result]:
    """mAP@ALL of the shallow methods on GIST, as rows of ``results.csv``.

    Each seed draws its own queries and train images, as the published code draws its own.

    Args:
        features: float32 [N, D]
        labels: bool [N, L]
        seeds: number of draws
        theirs: the methods as the published code runs them, or as this package does
        whole_database: search all images but the queries; the published code searches the train
            images
        lengths: code lengths
        queries: number of queries
        train: number of train images
    """
    results = []
    for seed in range(seeds):
        rows = np.random.default_rng(seed).permutation(len(features))
        query, database = rows[:queries], rows[queries:]
        learned = features[database[:train]]
        if not whole_database:
            database = database[:train]
        for bits in lengths:
            methods = their_methods if theirs else our_methods
            for name, method in methods(bits, seed, learned):
                report = evaluate_codes(
                    pack_codes(method.project(features[query])),
                    pack_codes(method.project(features[database])),
                    labels[query],
                    labels[database],
                    bits=bits,
                    ks=(None,),
                    ties="expected",
                    denominator="retrieved",
                )
                results.append(
                    Result(
                        dataset="cifar10",
                        protocol="1k-5k",
                        split_sha256="",
                        method=name,
                        backbone="gist-512",
                        bits=bits,
                        seed=seed,
                        metric="map",
                        k="all",
                        ties="expected",
                        denominator="retrieved",
                        value=report.map[None],
                        lower=report.map_worst[None],
                        upper=report.map_best[None],
                        seconds=0.0,
                        encode_seconds=0.0,
                        peak_gb=0.0,
                        version=__version__,
                    )
                )
    return results


def means(results: list[Result]) -> dict[tuple[str, int], float]:
    """Mean over seeds by method and code length."""
    keys = dict.fromkeys((row.method, row.bits) for row in results)
    return {
        key: float(np.mean([row.value for row in results if (row.method, row.bits) == key]))
        for key in keys
    }


def choices_table(columns: dict[str, list[Result]]) -> str:
    """mAP by method and code length, a column for each set of choices."""
    values = {name: means(results) for name, results in columns.items()}
    keys = next(iter(values.values()))
    lines = [f"| method | bits | {' | '.join(columns)} |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns))
    for method, bits in sorted(keys):
        cells = " | ".join(f"{value[method, bits]:.4f}" for value in values.values())
        lines.append(f"| {method} | {bits} | {cells} |")
    return "\n".join(lines)


def report(
    features: Float32s,
    labels: Bools,
    kind: str,
    seeds: int,
    lengths: tuple[int, ...] = BITS,
    queries: int = QUERIES,
    train: int = TRAIN,
) -> str:
    """Our numbers beside the published ones, and what the choices of the published code do, as
    Markdown.

    Args:
        features: float32 [N, D]
        labels: bool [N, L]
        kind: what files the images came from
        seeds: number of draws
        lengths: code lengths
        queries: number of queries
        train: number of train images

    Raises:
        InputError: there are too few images.
    """
    if len(features) < queries + train:
        raise InputError(
            f"{len(features)} images are too few for {queries} queries and {train} train images; "
            "give --cifar10 a folder with all 60,000"
        )

    draws = min(seeds, CHOICE_DRAWS)

    def run(seeds: int, theirs: bool, whole_database: bool) -> list[Result]:
        return gist_results(
            features, labels, seeds, theirs, whole_database, lengths, queries, train
        )

    same = run(seeds, True, False)
    few = [row for row in same if row.seed < draws]
    whole, own = run(draws, True, True), run(draws, False, True)
    everything = f"{len(features) - queries:,} database"
    commit = git_commit(Path(__file__).parent) or "unknown"
    parts = [
        f"CIFAR-10 ({kind}), GIST 512, {queries:,} queries, {train:,} train images = database, "
        f'mAP@ALL, denominator "retrieved", expected over ties; {seeds} draws.',
        f"{date.today()}, commit {commit[:12]}{commit[40:]}, {os.cpu_count()} CPU cores.",
        markdown_table(published_rows(same)),
        f"What the choices of the published code do (means over {draws} of these draws):",
        choices_table({"as published": few, everything: whole, f"our defaults, {everything}": own}),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, default=Path("datasets"), help="folder of CIFAR-10")
    parser.add_argument("--cache", type=Path, help="file for the GIST descriptors, .npy")
    parser.add_argument("--seeds", type=int, default=5, help="draws of queries and train images")
    given = parser.parse_args()
    pixels, labels, kind = cifar10_pixels(given.cifar10)
    print(report(described(pixels, given.cache), labels, kind, given.seeds))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
