"""Inverted lists beside FAISS's flat and IVF indexes and usearch's graph, on clustered codes.

    python benchmarks/search_scale.py [--codes 10000000] [--usearch 1000000] [--out FILE]

The codes are made: 20,000 random centres of 64 bits; a code is one of them with each bit flipped
with probability 1/8 or 1/16, by half. Queries are made alike and are not among the codes. Every
index looks for the 100 nearest of one query at a time, on one thread; times are of its processor.
FAISS's lists and usearch's effort grow until the recall on codes of the collection is the wanted
one, as ours do. A code as near as the hundredth counts as right.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from udmsh_pl.files import write_text
from udmsh_pl.retrieval.lists import build_lists

BITS, NEAREST, RECALL = 64, 100, 0.99
CENTRES, BLOCK = 20_000, 1 << 20
Search = Callable[[NDArray[np.uint8]], NDArray[Any]]  # one code -> distances, nearest first


def drawn(generator: np.random.Generator, centres: NDArray[np.uint64], count: int) -> NDArray[Any]:
    """Codes around the centres, packed: uint8 [count, 8]."""
    flips = generator.integers(0, 2**64, (4, count), dtype=np.uint64)
    few = np.where(generator.random(count) < 0.5, np.uint64(2**64 - 1), flips[3])
    codes = centres[generator.integers(len(centres), size=count)]
    return (codes ^ (flips[0] & flips[1] & flips[2] & few)).view(np.uint8).reshape(count, -1)


def timed(search: Search, queries: NDArray[np.uint8]) -> tuple[list[NDArray[Any]], float]:
    """Distances of each query, and the median milliseconds of the processor for one."""
    answers, seconds = [], []
    for query in queries:
        start = time.thread_time()
        answers.append(search(query))
        seconds.append(time.thread_time() - start)
    return answers, 1000 * float(np.median(seconds))


def recall_of(answers: list[NDArray[Any]], furthest: NDArray[Any]) -> float:
    right = [(one[:NEAREST] <= far).sum() for one, far in zip(answers, furthest, strict=True)]
    return float(np.mean(right)) / NEAREST


def until(tries: list[int], reach: Callable[[int], float]) -> int:
    """The first of ``tries`` that reaches the recall, or the last."""
    return next((one for one in tries if reach(one) >= RECALL), tries[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--usearch", type=int, default=1_000_000, help="codes in its graph, at most"
    )
    parser.add_argument("--threads", type=int, default=1, help="that build")
    parser.add_argument("--alone", action="store_true", help="ours and the flat index alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_scale.md"))
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    generator = np.random.default_rng(0)
    centres = generator.integers(0, 2**64, CENTRES, dtype=np.uint64)
    queries = drawn(generator, centres, arguments.queries)
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        codes = open_memmap(
            Path(temporary, "codes.npy"), "w+", np.uint8, (arguments.codes, BITS // 8)
        )
        for start in range(0, arguments.codes, BLOCK):
            part = codes[start : start + BLOCK]
            part[:] = drawn(generator, centres, len(part))
        codes.flush()
        one = build_lists(Path(temporary, "compile"), codes[:1000], BITS)
        one.search(queries[0], NEAREST)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        lists = build_lists(
            Path(temporary, "lists"), codes, BITS, RECALL, threads=arguments.threads
        )
        built = time.process_time() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"ours: {built:.0f} s, {lists.facts}", flush=True)
        known = np.asarray(list(lists.sample(100, seed=1)))  # to choose the others' effort by

        def line(name: str, seconds: float, width: float, search: Search) -> None:
            answers, once = timed(search, queries)
            found = recall_of(answers, furthest)
            rows.append(f"| {name} | {seconds:.0f} | {width:.1f} | {found:.4f} | {once:.2f} |")
            print(rows[-1], flush=True)

        start = time.process_time()
        flat = faiss.IndexBinaryFlat(BITS)
        flat.add(np.asarray(codes))
        added = time.process_time() - start
        exact = [flat.search(query[None], NEAREST)[0][0] for query in queries]
        furthest = np.array([one[-1] for one in exact])
        far_known = np.array([flat.search(one[None], NEAREST)[0][0][-1] for one in known])

        def ours(code: NDArray[np.uint8]) -> NDArray[Any]:
            return lists.search(code, NEAREST)[0]

        facts = lists.facts
        name = f"ours, {facts.lists:,} lists, {facts.probes} looked into"
        line(name, built, lists.nbytes() / len(codes), ours)
        line("FAISS IndexBinaryFlat (exact)", added, 8, _faiss(flat))
        flat.reset()
        if not arguments.alone:
            start = time.process_time()
            ivf, quantizer = _ivf(codes, facts.lists)
            seconds = time.process_time() - start

            def probed(probes: int) -> float:
                ivf.nprobe = probes
                return recall_of([ivf.search(one[None], NEAREST)[0][0] for one in known], far_known)

            ivf.nprobe = until(_tries(facts.lists), probed)
            name = f"FAISS IndexBinaryIVF, {facts.lists:,} lists, {ivf.nprobe} looked into"
            line(name, seconds, 16, _faiss(ivf))
            ivf.reset()
            del quantizer
            rows += _usearch(codes[: arguments.usearch], queries, known, arguments)
        lines = [
            f"# Nearest codes among {len(codes):,}, one query at a time",
            "",
            __doc__.partition("\n\n")[2].partition("\n\n")[2].strip().replace("\n", " "),
            "",
            f"{facts}. {arguments.threads} thread(s) built; memory grew by {grown:,.0f} MB "
            "meanwhile, pages of mapped files among it.",
            "",
            "| index | built in CPU s | bytes a code | recall@100 | CPU ms a query |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    write_text(arguments.out, "\n".join(lines) + "\n")


def _tries(most: int) -> list[int]:
    tries = [1]
    while tries[-1] < most:
        tries.append(min(most, max(tries[-1] + 1, int(tries[-1] * 1.25))))
    return tries


def _faiss(index: Any) -> Search:
    return lambda code: index.search(code[None], NEAREST)[0][0]  # type: ignore[no-any-return]


def _ivf(codes: NDArray[np.uint8], lists: int) -> tuple[Any, Any]:
    quantizer = faiss.IndexBinaryFlat(BITS)
    index = faiss.IndexBinaryIVF(quantizer, BITS, lists)
    index.cp.max_points_per_centroid, index.cp.niter = 40, 4
    generator = np.random.default_rng(0)
    index.train(codes[np.sort(generator.choice(len(codes), min(len(codes), 40 * lists), False))])
    for start in range(0, len(codes), BLOCK):
        index.add(np.asarray(codes[start : start + BLOCK]))
    return index, quantizer


def _usearch(codes: Any, queries: Any, known: Any, arguments: argparse.Namespace) -> list[str]:
    try:
        from usearch.index import Index, MetricKind, ScalarKind
    except ImportError:
        return ["| usearch | not installed | | | |"]
    flat = faiss.IndexBinaryFlat(BITS)
    flat.add(np.asarray(codes))
    furthest, far_known = (
        np.array([flat.search(one[None], NEAREST)[0][0][-1] for one in some])
        for some in (queries, known)
    )
    index = Index(ndim=BITS, metric=MetricKind.Hamming, dtype=ScalarKind.B1)
    start = time.process_time()
    index.add(np.arange(len(codes)), np.asarray(codes), threads=arguments.threads)
    seconds = time.process_time() - start

    def search(code: NDArray[np.uint8]) -> NDArray[Any]:
        found: NDArray[Any] = index.search(code, NEAREST, threads=1).distances
        return found

    def effort(value: int) -> float:
        index.expansion_search = value
        return recall_of([search(one) for one in known], far_known)

    best = until([64, 128, 256, 512, 1024, 2048, 4096], effort)
    index.expansion_search = best
    answers, once = timed(search, queries)
    width = index.serialized_length / len(codes)
    return [
        f"| usearch, {len(codes):,} codes only, expansion {best} | {seconds:.0f} | {width:.0f} | "
        f"{recall_of(answers, furthest):.4f} | {once:.2f} |"
    ]


if __name__ == "__main__":
    main()
