"""Time and memory of the semantic structure: ours against SciPy's ``pdist``, and with N: ``python benchmarks/structure.py``.

Each case runs in a process of its own, so that its peak memory is its own; the memory is what the case adds to a process
that has imported everything and holds the features. The manifold teacher of UDMSH-plus is measured beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform

from udmsh_pl.files import write_text
from udmsh_pl.manifold import diffused_embedding, neighbour_graph
from udmsh_pl.structure import fit_half_gaussians

MB = 1024


def features(count: int, dim: int) -> torch.Tensor:
    """Float16 rows around a hundred centres, non-negative as after a ReLU."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(100, dim, generator=generator)
    values = torch.empty(count, dim, dtype=torch.half)
    for part in values.split(1000):
        rows = centres[torch.randint(100, (len(part),), generator=generator)]
        part.copy_((rows + 0.3 * torch.randn(rows.shape, generator=generator)).relu())
    return values


def run(case: str, count: int, dim: int) -> None:
    values = features(count, dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if case == "pdist":
        distances = squareform(pdist(values.float().numpy(), "cosine"))
        counts, edges = np.histogram(distances[np.triu_indices(count, 1)], bins=200, range=(0, 2))
        found = [float(edges[counts.argmax()]) + 0.005]
    elif case == "manifold":
        found = [float(diffused_embedding(neighbour_graph(values.float().numpy())).std())]
    else:
        found = [fit_half_gaussians(values, sample=20_000 if case == "sampled" else None).mode]
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MB
    print(json.dumps({"seconds": seconds, "mb": added, "total": (before / MB + added), "found": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the fit of the semantic structure.")
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--case", nargs=2, metavar=("CASE", "N"), help="run one case in this process")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure.md")
    arguments = parser.parse_args()
    if arguments.case:
        run(arguments.case[0], int(arguments.case[1]), arguments.dim)
        return
    cases = [("pdist", 10_000), ("all pairs", 10_000), ("all pairs", 20_000), ("all pairs", arguments.largest)]
    cases += [("sampled", arguments.largest)]
    # the fused feature has 512 dimensions, whatever the trunk
    manifold = [("manifold", count) for count in (5_000, 20_000, 50_000)]
    lines = [
        f"# Semantic structure: time and memory with N, {arguments.dim} dimensions, {torch.get_num_threads()} threads",
        "",
        "| fit | N | dimensions | seconds | memory added, MB | whole process, MB | mode |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    answers = {}
    for case, count in cases + manifold:
        dim = 512 if case == "manifold" else arguments.dim
        command = [sys.executable, __file__, "--dim", str(dim), "--case", case, str(count)]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        answers[case, count] = answer
        mode = "" if case == "manifold" else f"{answer['found'][0]:.3f}"
        row = (case, f"{count:,}", dim, f"{answer['seconds']:.1f}", f"{answer['mb']:.0f}", f"{answer['total']:.0f}", mode)
        lines.append("| " + " | ".join(map(str, row)) + " |")
        print(lines[-1], flush=True)
    theirs, ours = answers["pdist", 10_000], answers["all pairs", 10_000]
    ratios = [theirs[key] / max(ours[key], 1e-9) for key in ("seconds", "mb")]
    lines += [
        "",
        f"At N = 10,000 ours is {ratios[0]:.1f} times faster than `pdist` + `squareform` and adds {ratios[1]:.1f} times less",
        "memory. `sampled` uses 20,000 rows; its mode beside that of all pairs is the error of the sampling.",
    ]
    write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
