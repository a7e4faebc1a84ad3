"""What an index of a large collection gains from more pictures, steps or larger batches to learn.

    python benchmarks/learning.py IMAGES LISTS [--held 1000] [--counts 10000 49000]
        [--steps 600 1200] [--batches 256 1024] [--seeds 0 1] [--collection N] [--out FILE]

IMAGES is a folder of pictures, LISTS one with ``database.txt``. Some pictures of the list are the
queries, the others (N of them) the collection; a hash is learned from so many of these as ``udmsh
index`` does it, and encodes all of them. Test queries have no part. Each hash has two rows: codes
alone, and the two stages of ``udmsh search``.
"""

import argparse
import os
import subprocess
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.baselines.references import cosine_map, ranking_map
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.features.fused import side_by_side
from udmsh_pl.features.store import sample_rows
from udmsh_pl.images.list_file import read_list
from udmsh_pl.retrieval import evaluate_codes
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.encoder import Encoded
from udmsh_pl.search.graph import HashHead
from udmsh_pl.search.searching import SHORTLIST, reranked, shortlist
from udmsh_pl.search.spec import RERANK_DIMS
from udmsh_pl.search.train import BITS, encode_features, fused_feature, train

ROOT = Path(__file__).parents[1]
KS = (1, 10, 100, 1000, None)


def best_of(queries: Encoded, pictures: Encoded) -> NDArray[np.int64]:
    """Rows of the pictures that ``udmsh search`` finds for each query, best first."""
    best = []
    for code, feature in zip(*queries, strict=True):
        distances, near = shortlist(code, pictures[0], SHORTLIST)
        ranking = reranked(distances, near, BITS, feature, pictures[1][near])
        best.append(ranking[1][:SHORTLIST])
    return np.stack(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("lists", type=Path, nargs="?")
    parser.add_argument("--held", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 49_000])
    parser.add_argument("--steps", type=int, nargs="+", default=[600, 1200])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--collection", type=int, help="pictures to search; all by default")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/udmsh-pl").expanduser())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/learning.md")
    arguments = parser.parse_args()
    if arguments.lists is None:
        print("learning.py: left out, it wants a folder of pictures and one of lists")
        return
    listed = read_list(arguments.lists / "database.txt", arguments.images)
    stored = FeatureExtractor(arguments.cache, OFFLINE_BACKBONE).stored(listed).arrays
    names = ("global_feature", "feature_map")
    held = np.sort(np.random.default_rng(0).permutation(len(listed))[: arguments.held])
    known = np.setdiff1d(np.arange(len(listed)), held)
    known = known[sample_rows(len(known), arguments.collection or len(known))]
    query, database = ({name: stored[name][rows] for name in names} for rows in (held, known))
    labels = listed.labels[held], listed.labels[known]

    lines = [
        "| learned from | steps | batch | search | P@1 | mAP@10 | mAP@100 | mAP@1000 | mAP@ALL "
        "| s |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for count, steps, batch in product(arguments.counts, arguments.steps, arguments.batches):
        rows = sample_rows(len(known), count)
        chosen = {name: database[name][rows].astype(np.float32) for name in names}
        found: dict[str, list[list[float]]] = {"codes": [], "two stages": []}
        seconds = []
        for seed in arguments.seeds:
            start = time.perf_counter()
            encoder = train(chosen, BITS, steps, seed, batch)
            seconds.append(time.perf_counter() - start)
            head = HashHead(encoder, None, RERANK_DIMS)
            queries, pictures = (encode_features(head, one) for one in (query, database))
            report = evaluate_codes(queries[0], pictures[0], *labels, bits=BITS, ks=KS)
            found["codes"].append([report.map[k] for k in KS])
            best = best_of(queries, pictures)
            again = ranking_map(best.__getitem__, labels, KS[:3])
            found["two stages"].append([again[k] for k in KS[:3]])
        for search, scores in found.items():
            middle = np.mean(scores, 0)
            spread = np.std(scores, 0, ddof=1) if len(scores) > 1 else np.zeros(len(middle))
            cells = [f"{one:.3f} ± {far:.3f}" for one, far in zip(middle, spread, strict=True)]
            cells += [""] * (len(KS) - len(cells))
            facts = f"{count:,} | {steps:,} | {batch:,} | {search}"
            lines.append(f"| {facts} | {' | '.join(cells)} | {np.mean(seconds):.0f} |")
            print(lines[-1], flush=True)
    fusion = fused_feature(chosen)  # of the largest count
    fused = []
    for one in (query, database):
        blocks = range(0, len(one["global_feature"]), 1024)
        parts = [
            side_by_side(*(torch.from_numpy(one[n][at : at + 1024]) for n in names))
            for at in blocks
        ]
        fused.append(torch.cat([fusion.project(part) for part in parts]).numpy())
    plain = [np.asarray(one["global_feature"], np.float32) for one in (query, database)]
    plain = [one - plain[1].mean(0) for one in plain]
    for name, pair in (("backbone's feature", plain), ("fused feature, 512 axes", fused)):
        cosines = cosine_map(*pair, labels, KS)
        values = " | ".join(f"{cosines[k]:.3f}" for k in KS)
        lines.append(f"| cosine of the {name} | | | | {values} | |")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    write_text(
        arguments.out,
        f"# Learning for a large collection\n\n`python benchmarks/learning.py IMAGES LISTS`: "
        f"{len(known):,} pictures and {len(held):,} queries, all of them from `database.txt`; "
        f"{BITS} bits, no views, backbone {OFFLINE_BACKBONE}, seeds {arguments.seeds}: mean ± "
        f"deviation; s is the time of learning. mAP is "
        "expected over orders of tied pictures, denominator `retrieved`. "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, commit {commit}.\n\n"
        + "\n".join(lines)
        + "\n",
    )


if __name__ == "__main__":
    main()
