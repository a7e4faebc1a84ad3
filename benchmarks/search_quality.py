"""What the two stages of a search find, beside the codes alone and the features alone.

    python benchmarks/search_quality.py [--cifar IMAGES LISTS] [--miml IMAGES LISTS]
        [--drawings FOLDER] [--views 0] [--seeds 3] [--out FILE]

Each collection is learned from as ``udmsh index`` does it, without labels, and with ``--views``
from cached random views too; its query pictures are never learned from. IMAGES is a folder of
pictures, LISTS one of list files, FOLDER what ``scripts/drawings.py`` made: pictures of no
benchmark, on which the lengths of shortlist and re-rank feature and the share of the codes are
chosen.
"""

import argparse
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.baselines.references import cosine_map, ranking_map
from udmsh_pl.data.fashion_mnist import load_sample
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.features.fused import side_by_side
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.list_file import read_list
from udmsh_pl.models.heads import FusedEncoder
from udmsh_pl.retrieval import evaluate_codes
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.graph import pack_bits, to_int8
from udmsh_pl.search.searching import CODE_SHARE, SHORTLIST, reranked, shortlist
from udmsh_pl.search.train import BITS, steps_for, train

KS = (1, 10, 100)
DIMS = (128, 240, 512)
Scores = dict[str, tuple[int, list[float]]]  # way -> bytes a picture, mAP at each of KS


def collections(arguments: argparse.Namespace) -> Iterator[tuple[str, ImageList, ImageList]]:
    """Name, queries and database of each collection that is there."""
    splits = load_sample()
    yield "the embedded sample, 500 queries, 5,000 pictures", splits.query, splits.database
    for name, given, lists in (
        ("CIFAR-10 small lists", arguments.cifar, ("small_test.txt", "small_database.txt")),
        ("MIML scenes", arguments.miml, ("test.txt", "database.txt")),
        ("drawings, fine", arguments.drawings and [arguments.drawings] * 2, FINE),
        ("drawings, coarse", arguments.drawings and [arguments.drawings] * 2, COARSE),
    ):
        if given:
            root, folder = given
            query, database = (read_list(folder / one, root) for one in lists)
            yield f"{name}, {len(query):,} queries, {len(database):,} pictures", query, database


FINE, COARSE = (
    tuple(f"{kind}-{part}.txt" for part in ("query", "database")) for kind in ("fine", "coarse")
)


def cosine(
    query: NDArray[np.float32], known: NDArray[np.float32], *labels: NDArray[np.bool_]
) -> list[float]:
    found = cosine_map(query, known, labels, KS)
    return [found[k] for k in KS]


def mean_precisions(
    search: Callable[[int], NDArray[np.int64]], labels: list[NDArray[np.bool_]]
) -> list[float]:
    """mAP at each of KS of ``search(query row)``: rows of the database, best first."""

    def order(rows: slice) -> NDArray[np.int64]:
        queries = range(len(labels[0]))[rows]
        return np.stack([search(row)[: max(KS)] for row in queries])

    found = ranking_map(order, (labels[0], labels[1]), KS)
    return [found[k] for k in KS]


def measured(
    arrays: list[dict[str, NDArray[np.float32]]], labels: list[NDArray[np.bool_]], seed: int
) -> Scores:
    """All ways on one collection; ``arrays`` and ``labels`` are of queries and database."""
    count = len(arrays[1]["global_feature"])
    encoder: FusedEncoder = train(arrays[1], BITS, steps_for(count), seed)
    parts = [
        side_by_side(*(torch.from_numpy(one[name]) for name in ("global_feature", "feature_map")))
        for one in arrays
    ]
    with torch.inference_mode():
        fusion = encoder.fusion
        whole = [fusion._fuse(part) - fusion.centre for part in parts]
        axes = [torch.cat([fusion.project(block) for block in part.split(512)]) for part in parts]
        logits = [encoder.head_logits(part) for part in axes]
        codes = [pack_bits(part).numpy() for part in logits]
        relaxed, signs = torch.tanh(logits[0]).numpy(), torch.where(logits[1] >= 0, 1.0, -1.0)
    plain = [one["global_feature"] - arrays[1]["global_feature"].mean(0) for one in arrays]
    report = evaluate_codes(*codes, *labels, bits=BITS, ks=KS)
    width = codes[0].shape[1]
    found: Scores = {
        f"codes alone, {BITS} bits": (width, [report.map[k] for k in KS]),
        "cosine of the backbone's feature, centred, float32": (
            plain[0].shape[1] * 4, cosine(*plain, *labels),
        ),
        "cosine of the whole fused feature, float32": (
            whole[0].shape[1] * 4, cosine(*(one.numpy() for one in whole), *labels),
        ),
        f"its {axes[0].shape[1]} leading axes, float32": (
            axes[0].shape[1] * 4, cosine(*(one.numpy() for one in axes), *labels),
        ),
    }  # fmt: skip

    def asymmetric(row: int) -> NDArray[np.int64]:
        return np.asarray(np.argsort(-(signs.numpy() @ relaxed[row]), kind="stable"))

    name = "codes, the query's relaxed code against them (asymmetric)"
    found[name] = width, mean_precisions(asymmetric, labels)
    for dims in DIMS:
        near = [to_int8(one[:, :dims]).numpy() for one in axes]

        def search(row: int, near: list[NDArray[np.int8]] = near) -> NDArray[np.int64]:
            distances, rows = shortlist(codes[0][row], codes[1], SHORTLIST)
            return reranked(distances, rows, BITS, near[0][row], near[1][rows])[1]

        name = f"two stages, int8 of {dims} axes"
        found[name] = width + dims, mean_precisions(search, labels)
        unit = [normalize(torch.from_numpy(one).float(), dim=1).numpy() for one in near]
        found[f"int8 of {dims} axes alone"] = dims, cosine(*unit, *labels)
    return found


def table(runs: list[Scores]) -> list[str]:
    columns = ["P@1", *(f"mAP@{k}" for k in KS[1:])]
    lines = ["| way | bytes a picture | " + " | ".join(columns) + " |", "|---|---:|---:|---:|---:|"]
    for way, (width, _) in runs[0].items():
        values = np.array([run[way][1] for run in runs])
        middle, spread = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else [0.0] * 3
        cells = [f"{one:.3f} ± {far:.3f}" for one, far in zip(middle, spread, strict=True)]
        lines.append(f"| {way} | {width:,} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    pair = {"type": Path, "nargs": 2, "metavar": ("IMAGES", "LISTS")}
    parser.add_argument("--cifar", **pair)
    parser.add_argument("--miml", **pair)
    parser.add_argument("--drawings", type=Path, metavar="FOLDER")
    parser.add_argument("--views", type=int, default=0, help="of each picture, to learn from too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/udmsh-pl").expanduser())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_quality.md"))
    arguments = parser.parse_args()
    extractor = FeatureExtractor(arguments.cache, OFFLINE_BACKBONE, workers=1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = [
        "# What a search finds",
        "",
        f"Backbone {OFFLINE_BACKBONE}, frozen, 224 px; udmsh-plus of {BITS} bits learned from the "
        f"collection's own pictures and {arguments.views} random views of each, without labels, "
        f"seeds 0 to {arguments.seeds - 1}: mean ± deviation. A shortlist of {SHORTLIST} by "
        f"Hamming distance (more at a tie) is ordered by the cosine of int8 features, "
        f"{1 - CODE_SHARE:.0%} of a likeness, and that of codes. P@1 of codes is expected over "
        "orders of tied pictures, and so are their mAP; denominator "
        f'"retrieved", a query without a hit counts 0. Commit {commit}.',
    ]
    for name, query, database in collections(arguments):
        arrays = [
            {
                key: np.asarray(value, np.float32)
                for key, value in extractor.stored(one).arrays.items()
            }
            for one in (query, database)
        ]
        if arguments.views:
            arrays[1] |= extractor.stored(database, arguments.views).arrays
        labels = [one.labels for one in (query, database)]
        runs = [measured(arrays, labels, seed) for seed in range(arguments.seeds)]
        lines += ["", f"## {name}", "", *table(runs)]
        print("\n".join(lines[-len(table(runs)) - 2 :]), flush=True)
    write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
