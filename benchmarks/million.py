"""The manifold teacher with N: time, memory and growth of the large way, and what it loses.

    python benchmarks/million.py                      # 50,000, 200,000 and 1,000,000 rows
    python benchmarks/million.py --sizes 50000 --exact 50000

Rows of 512 numbers around 1,000 small groups of 100 kinds. Each case runs in a process of its own.
The exact way (all pairs, Lanczos) runs beside the large one where ``--exact`` says; mAP is that of
500 rows as queries, ranked by the teacher's similarity, with the kinds as labels.
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
from numpy.typing import NDArray

from udmsh_pl.safe.files import write_text
from udmsh_pl.similarity import manifold

DIM, KINDS, GROUPS, QUERIES, BLOCK = 512, 100, 10, 500, 10_000
WAYS = {"large": 0, "exact": 10**9}  # EXACT_UP_TO


def features(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Centred rows float32 [N, 512] and their kinds [N]."""
    draw = np.random.default_rng(0)
    kinds = draw.standard_normal((KINDS, 1, DIM))
    centres = (kinds + draw.standard_normal((KINDS, GROUPS, DIM))).reshape(-1, DIM)
    group = draw.integers(0, KINDS * GROUPS, count)
    rows = np.empty((count, DIM), np.float32)
    fade = np.arange(1, DIM + 1) ** -0.5  # as principal axes do
    for start in range(0, count, BLOCK):
        part = group[start : start + BLOCK]
        noise = 1.2 * draw.standard_normal((len(part), DIM))
        rows[start : start + BLOCK] = fade * (centres[part] + noise)
    rows -= rows.mean(0)
    return rows, group // GROUPS


def mean_average_precision(
    unit: NDArray[np.float32], kinds: NDArray[np.int64], cutoff: int = 1000
) -> float:
    """mAP@1000 of 500 rows as queries against all others, by inner products."""
    rows = np.random.default_rng(1).choice(len(unit), QUERIES, replace=False)
    total = 0.0
    for row in rows:
        scores = unit @ unit[row]
        scores[row] = -np.inf
        best = np.argpartition(-scores, cutoff)[:cutoff]
        hits = kinds[best[np.argsort(-scores[best])]] == kinds[row]
        total += (hits * hits.cumsum() / np.arange(1, cutoff + 1)).sum() / max(hits.sum(), 1)
    return total / QUERIES


def run(way: str, count: int) -> None:
    manifold.EXACT_UP_TO = WAYS[way]
    values, kinds = features(count)
    plain = mean_average_precision(manifold.unit_rows(values), kinds) if count <= 50_000 else None
    moments = [(time.perf_counter(), time.process_time())]
    graph = manifold.neighbour_graph(values)
    moments.append((time.perf_counter(), time.process_time()))
    unit = manifold.diffused_embedding(graph)
    moments.append((time.perf_counter(), time.process_time()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    wall, cpu = (np.diff([moment[which] for moment in moments]).tolist() for which in (0, 1))
    found = mean_average_precision(unit, kinds)
    print(json.dumps({"wall": wall, "cpu": cpu, "gb": peak, "map": found, "cosine": plain}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the manifold teacher of many rows.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--exact", type=int, nargs="*", default=[50_000])
    parser.add_argument("--case", nargs=2, metavar=("WAY", "N"), help="run one in this process")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "million.md"
    )
    arguments = parser.parse_args()
    if arguments.case:
        run(arguments.case[0], int(arguments.case[1]))
        return
    lines = [
        f"# The manifold teacher of many rows, 512 numbers each, {torch.get_num_threads()} threads",
        "",
        "| way | N | graph, s | eigenvectors, s | CPU seconds | whole process, GB | mAP@1000 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    taken = {}
    for way, count in [
        *(("exact", count) for count in arguments.exact),
        *(("large", count) for count in arguments.sizes),
    ]:
        command = [sys.executable, __file__, "--case", way, str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        answer = json.loads(done.stdout)
        taken[way, count] = sum(answer["cpu"])
        lines.append(
            f"| {way} | {count:,} | {answer['wall'][0]:.0f} | {answer['wall'][1]:.0f} | "
            f"{sum(answer['cpu']):.0f} | {answer['gb']:.1f} | {answer['map']:.4f} |"
        )
        if answer["cosine"] is not None:
            print(f"cosine of the rows: {answer['cosine']:.4f}")
        print(lines[-1], flush=True)
    if len(arguments.sizes) > 1:
        first, last = arguments.sizes[0], arguments.sizes[-1]
        ratio = taken["large", last] / taken["large", first]
        power = np.log(ratio) / np.log(last / first)
        lines += ["", f"CPU seconds of the large way grow with N to the power of {power:.2f}."]
    write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
