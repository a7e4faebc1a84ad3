"""Time exact evaluation against what the field uses, interleaved in one process.

Run ``python benchmarks/evaluation.py``.

Slow contenders score fewer queries; their time is scaled to all queries (cost is linear in
queries), and the table says so. Every contender's mAP is checked against ours, so that nobody is
timed for another task.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torchmetrics.retrieval import RetrievalMAP

from udmsh_pl.retrieval import evaluate_codes, pack_codes, unpack_codes
from udmsh_pl.retrieval.codes import code_words, label_words
from udmsh_pl.retrieval.compiled import popcount, wide_vectors
from udmsh_pl.safe.files import write_text

QUERIES, ITEMS = 5_000, 190_000


@dataclass
class Task:
    """Codes that carry some of the labels: distances spread as a trained network's do."""

    bits: int
    labels: int
    query: np.ndarray = field(init=False)
    database: np.ndarray = field(init=False)
    query_labels: np.ndarray = field(init=False)
    database_labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        share = np.minimum(0.4, 2.4 / self.labels * rng.pareto(1.5, self.labels))
        directions = rng.standard_normal((self.labels, self.bits))
        for name, count in (("query", QUERIES), ("database", ITEMS)):
            labels = rng.random((count, self.labels)) < share
            labels[np.arange(count), rng.integers(0, self.labels, count)] = True
            codes = labels @ directions + 1.5 * rng.standard_normal((count, self.bits))
            setattr(self, name, pack_codes(codes))
            setattr(self, f"{name}_labels", labels)
        codes = [unpack_codes(packed, self.bits) for packed in (self.query, self.database)]
        # made once: unpacking is not what the contenders are timed for
        self.floats = [
            torch.from_numpy(x).float() for x in (*codes, self.query_labels, self.database_labels)
        ]
        self.masks = [label_words(labels) for labels in (self.query_labels, self.database_labels)]


@numba.njit(nogil=True)
def bare_loop(queries, items):
    total = np.uint64(0)
    for q in range(queries.shape[1]):
        for w in range(queries.shape[0]):
            code, row = queries[w, q], items[w]
            for j in range(len(row)):
                total += popcount(row[j] ^ code)
    return total


@numba.njit(nogil=True)
def wide_bare_loop(queries, items):
    wide_vectors()
    total = np.uint64(0)
    for q in range(queries.shape[1]):
        for w in range(queries.shape[0]):
            code, row = queries[w, q], items[w]
            for j in range(len(row)):
                total += popcount(row[j] ^ code)
    return total


def limit(task: Task, queries: int, threads: int) -> float:
    """Xor, popcount and sum: nothing that looks at every pair can take less."""
    words = [code_words(codes).T.copy() for codes in (task.query, task.database)]
    bare_loop(words[0][:, :queries], words[1])
    return float("nan")


def wide_limit(task: Task, queries: int, threads: int) -> float:
    """The same with 512-bit vectors where the processor has them, as our kernel uses them."""
    words = [code_words(codes).T.copy() for codes in (task.query, task.database)]
    wide_bare_loop(words[0][:, :queries], words[1])
    return float("nan")


def ours(task: Task, queries: int, threads: int) -> float:
    report = evaluate_codes(
        task.query[:queries],
        task.database,
        task.query_labels[:queries],
        task.database_labels,
        task.bits,
        ks=(None,),
        threads=threads,
    )
    return report.map[None]


def ap_of_ranking(relevant: np.ndarray) -> float:
    places = np.flatnonzero(relevant) + 1.0
    return float(np.mean(np.arange(1, len(places) + 1) / places)) if len(places) else 0.0


def numpy_argsort(task: Task, queries: int, threads: int) -> float:
    """The loop of DeepHash-pytorch and most others: matrix product, argsort, cumulated hits."""
    q, d, wanted, have = (tensor.numpy() for tensor in task.floats)
    total = 0.0
    for row in range(queries):
        relevant = (wanted[row] @ have.T) > 0
        order = np.argsort(0.5 * (task.bits - q[row] @ d.T))
        total += ap_of_ranking(relevant[order])
    return total / queries


def torch_argsort(task: Task, queries: int, threads: int) -> float:
    """The same in torch, as ports of SSDH have it."""
    q, d, wanted, have = task.floats
    total = 0.0
    for row in range(queries):
        relevant = (wanted[row] @ have.T) > 0
        order = torch.argsort(0.5 * (task.bits - q[row] @ d.T))
        places = torch.nonzero(relevant[order]).squeeze(1) + 1.0
        total += float((torch.arange(1, len(places) + 1) / places).mean())
    return total / queries


def torchmetrics_map(task: Task, queries: int, threads: int) -> float:
    q, d, wanted, have = task.floats
    metric = RetrievalMAP()
    for row in range(queries):
        distance = 0.5 * (task.bits - q[row] @ d.T)
        # bits + 1 - d: torchmetrics drops targets whose prediction is not positive
        metric.update(
            task.bits + 1 - distance, (wanted[row] @ have.T) > 0, torch.full((len(d),), row)
        )
    return float(metric.compute())


def faiss_flat(use_heap: bool) -> Callable[[Task, int, int], float]:
    """FAISS ranks; relevance comes from bit masks, which cost next to nothing."""

    def score(task: Task, queries: int, threads: int) -> float:
        index = faiss.IndexBinaryFlat(task.bits)
        index.use_heap = use_heap
        index.query_batch_size = 8 * threads  # counting keeps (bits + 1) x N x 8 bytes a query
        index.add(task.database)
        wanted, have = task.masks
        total = 0.0
        for start in range(0, queries, 64):
            rows = slice(start, min(start + 64, queries))
            _, ids = index.search(task.query[rows], ITEMS)
            for row, ranking in zip(range(rows.start, rows.stop), ids, strict=True):
                total += ap_of_ranking(((wanted[row] & have) != 0).any(axis=1)[ranking])
        return total / queries

    return score


LIMIT, WIDE_LIMIT = "bare xor + popcount + sum", "bare xor + popcount + sum, 512-bit vectors"
# name, function, queries that one thread scores in a round
CONTENDERS: list[tuple[str, Callable[[Task, int, int], float], int]] = [
    (LIMIT, limit, QUERIES),
    (WIDE_LIMIT, wide_limit, QUERIES),
    ("udmsh_pl.evaluate_codes", ours, QUERIES),
    ("FAISS IndexBinaryFlat, counting (use_heap=False)", faiss_flat(False), 256),
    ("FAISS IndexBinaryFlat, heap", faiss_flat(True), 64),
    ("numpy matrix product + argsort", numpy_argsort, 100),
    ("torch matrix product + argsort", torch_argsort, 100),
    ("torchmetrics RetrievalMAP", torchmetrics_map, 40),
]


def measure(task: Task, threads: int, rounds: int) -> dict[str, float]:
    """Median seconds for all queries: of the processor on one thread, of the clock on several."""
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in CONTENDERS}
    with threadpool_limits(threads):
        for number in range(rounds + 1):
            for name, score, queries in CONTENDERS:
                if threads > 1 and score in (limit, wide_limit):
                    continue
                begin = clock()
                value = score(task, queries, threads)
                took = (clock() - begin) * QUERIES / queries
                if number == 0:  # warm-up, and the check that all answer one question (ties aside)
                    exact = ours(task, queries, threads)
                    if not np.isnan(value) and abs(value - exact) > 0.01:
                        raise SystemExit(f"{name} gives mAP {value}, ours {exact}")
                    continue
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items() if values}


def peak_memory() -> float:
    """MB that scoring the first task takes beyond its inputs, measured in a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True
    )
    return float(output.stdout)


def print_memory() -> None:
    task = Task(64, 21)
    ours(task, 16, 1)  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far counts the making of the inputs
    status = Path("/proc/self/status").read_text()
    before = int(status.split("VmRSS:")[1].split()[0])
    ours(task, QUERIES, 1)
    after = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print((after - before) / 1024)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def render(
    results: dict[tuple[int, int, int], dict[str, float]], memory: float, rounds: int
) -> str:
    lines = [
        "# Exact evaluation, side by side",
        "",
        f"{QUERIES} queries against {ITEMS} items, mAP@ALL; seconds (of the processor on one "
        "thread, so that "
        f"other work on the machine counts less, of the clock on several), median of {rounds} "
        "interleaved rounds "
        f"in one process ({processor()}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, "
        f"torch {torch.__version__}, faiss {faiss.__version__}). Written by `python "
        "benchmarks/evaluation.py`.",
        "",
        f"Load average of the machine at the end: {os.getloadavg()[2]:.1f} on {os.cpu_count()} "
        "cores. Well above the "
        "number of threads, other work ran too, and the clock times on several threads are too "
        "high.",
    ]
    for (bits, labels, threads), seconds in results.items():
        best = seconds["udmsh_pl.evaluate_codes"]
        lines += [
            "",
            f"## {bits} bits, {labels} labels, {threads} thread{'s' if threads > 1 else ''}",
            "",
        ]
        lines += ["| | seconds | ours is faster by | queries timed |", "|---|---:|---:|---:|"]
        for name, _, queries in CONTENDERS:
            if name in seconds:
                scaled = "all" if queries == QUERIES else f"{queries}, scaled"
                lines.append(
                    f"| {name} | {seconds[name]:.2f} | {seconds[name] / best:.2f} | {scaled} |"
                )
        peers = [
            value for name, value in seconds.items() if "bare" not in name and "udmsh" not in name
        ]
        lines += ["", f"Fastest peer / ours: {min(peers) / best:.1f}."]
        lines += [
            f"Ours / {name}: {best / seconds[name]:.2f}."
            for name in (LIMIT, WIDE_LIMIT)
            if name in seconds
        ]
    lines += [
        "",
        f"Peak memory of ours beyond the inputs, 64 bits, 21 labels, one thread: {memory:.0f} MB.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "evaluation.md"
    )
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print_memory()
        return
    cores = os.cpu_count() or 1
    results = {}
    for bits, labels in ((64, 21), (128, 81)):
        task = Task(bits, labels)
        for threads in sorted({1, cores}):
            results[bits, labels, threads] = measure(task, threads, args.rounds)
            print(bits, labels, threads, results[bits, labels, threads], flush=True)
    text = render(results, peak_memory(), args.rounds)
    print(text)
    write_text(args.out, text)


if __name__ == "__main__":
    main()
