"""Time and memory with N: structure fit, manifold teacher, feature cache, evaluation.

The structure fit is timed beside SciPy's ``pdist``.

    python benchmarks/scaling.py

Each case runs in a process of its own, so that its peak memory is its own; the memory is what the
case adds to a process that has imported everything and holds the features or codes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from udmsh_pl.retrieval import evaluate_codes
from udmsh_pl.safe.files import write_text
from udmsh_pl.similarity.manifold import diffused_embedding, neighbour_graph
from udmsh_pl.similarity.structure import fit_half_gaussians

MB = 1024


def features(count: int, dim: int, noise: float) -> torch.Tensor:
    """Float16 rows around a hundred centres, non-negative as after a ReLU."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(100, dim, generator=generator)
    values = torch.empty(count, dim, dtype=torch.half)
    for part in values.split(1000):
        rows = centres[torch.randint(100, (len(part),), generator=generator)]
        part.copy_((rows + noise * torch.randn(rows.shape, generator=generator)).relu())
    return values


def cache(values: torch.Tensor) -> float:
    """Write a store with its checksum, and open it again with every byte checked."""
    from udmsh_pl.features.store import (
        FeatureWriter,
    )  # brings Lightning along, which the other cases' memory leaves out

    with tempfile.TemporaryDirectory() as folder:
        writer = FeatureWriter(
            Path(folder) / "store", {}, len(values), {"global_feature": tuple(values.shape[1:])}
        )
        for block in values.split(512):
            writer.append({"global_feature": block.numpy()})
        return float(writer.finish()["global_feature"][-1].sum())


def evaluation(database: NDArray[np.uint8], queries: NDArray[np.uint8]) -> float:
    """Expected mAP@ALL of 1,000 queries with 21 labels a row."""
    draw = np.random.default_rng(1)
    labels = [draw.random((len(codes), 21)) < 0.1 for codes in (queries, database)]
    return evaluate_codes(queries, database, labels[0], labels[1], bits=64, ks=[None]).map[None]


def run(case: str, count: int, dim: int) -> None:
    draw = np.random.default_rng(0)
    database, queries = (draw.integers(0, 256, (rows, 8), dtype=np.uint8) for rows in (count, 1000))
    # so much noise that the neighbour graph is in one piece: pieces are solved one by one, which is
    # the easier case
    values = features(
        1 if case == "evaluation" else count, dim, noise=1.0 if case == "manifold" else 0.3
    )
    if case == "evaluation":
        evaluation(database[:100], queries[:10])  # compiles
    if case == "cache":
        cache(values[:1])  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if case == "pdist":
        distances = squareform(pdist(values.float().numpy(), "cosine"))
        counts, edges = np.histogram(distances[np.triu_indices(count, 1)], bins=200, range=(0, 2))
        found = [float(edges[counts.argmax()]) + 0.005]
    elif case == "cache":
        found = [cache(values)]
    elif case == "evaluation":
        found = [evaluation(database, queries)]
    elif case == "manifold":
        found = [float(diffused_embedding(neighbour_graph(values.float().numpy())).std())]
    else:
        found = [fit_half_gaussians(values, sample=20_000 if case == "sampled" else None).mode]
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MB
    print(
        json.dumps(
            {"seconds": seconds, "mb": added, "total": (before / MB + added), "found": found}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how things grow with N.")
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument(
        "--case", nargs=2, metavar=("CASE", "N"), help="run one case in this process"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "scaling.md"
    )
    arguments = parser.parse_args()
    if arguments.case:
        run(arguments.case[0], int(arguments.case[1]), arguments.dim)
        return
    cases = [
        ("pdist", 10_000),
        ("all pairs", 10_000),
        ("all pairs", 20_000),
        ("all pairs", arguments.largest),
    ]
    cases += [("sampled", arguments.largest)]
    # the fused feature has 512 dimensions, whatever the backbone
    dims = {"manifold": 512, "evaluation": 64}
    cases += [("manifold", count) for count in (5_000, 20_000, 50_000)]
    cases += [
        (case, count)
        for case in ("cache", "evaluation")
        for count in (10_000, 50_000, arguments.largest)
    ]
    lines = [
        f"# Time and memory with N, {torch.get_num_threads()} threads",
        "",
        "| case | N | dimensions | seconds | memory added, MB | whole process, MB | mode |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    answers = {}
    for case, count in cases:
        dim = dims.get(case, arguments.dim)
        command = [sys.executable, __file__, "--dim", str(dim), "--case", case, str(count)]
        answer = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        answers[case, count] = answer
        mode = f"{answer['found'][0]:.3f}" if case in ("pdist", "all pairs", "sampled") else ""
        row = (
            case,
            f"{count:,}",
            dim,
            f"{answer['seconds']:.2f}",
            f"{answer['mb']:.0f}",
            f"{answer['total']:.0f}",
            mode,
        )
        lines.append("| " + " | ".join(map(str, row)) + " |")
        print(lines[-1], flush=True)
    theirs, ours = answers["pdist", 10_000], answers["all pairs", 10_000]
    ratios = [theirs[key] / max(ours[key], 1e-9) for key in ("seconds", "mb")]
    lines += [
        "",
        f"At N = 10,000 ours is {ratios[0]:.1f} times faster than `pdist` + `squareform` and adds "
        f"{ratios[1]:.1f} times less",
        "memory. `sampled` uses 20,000 rows; its mode beside that of all pairs is the error of the "
        "sampling. `manifold` is",
        "the teacher of `udmsh-plus`, graph and eigenvectors; `cache` writes, checks and opens a "
        "store; `evaluation` is the",
        "expected mAP@ALL of 1,000 queries with 64 bits and 21 labels.",
    ]
    write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
