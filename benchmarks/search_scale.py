"""Inverted lists beside FAISS's flat and IVF indexes, LanceDB and usearch, on clustered codes.

    python benchmarks/search_scale.py [--codes 10000000] [--usearch 1000000] [--out FILE]

The codes are made: 20,000 random centres of 64 bits; a code is one of them with each bit flipped
with probability 1/8 or 1/16, by half. Queries are made alike and are not among the codes. Every
index looks for the 100 nearest of one query at a time, on one thread; times are of the processor,
in all threads, since other programs ran meanwhile. The lists that FAISS and LanceDB look into and
usearch's effort grow until the recall on codes of the collection is the wanted one, as ours do. A
code as near as the hundredth counts as right. LanceDB takes threads of its own, and is on the disk.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from udmsh_pl.retrieval.lists import build_lists
from udmsh_pl.safe.files import write_text

BITS, NEAREST, RECALL = 64, 100, 0.99
CENTRES, BLOCK = 20_000, 1 << 20
Search = Callable[[NDArray[np.uint8]], NDArray[Any]]  # one code -> distances, nearest first
Made = Callable[[int], Search]  # lists to look into -> a search


def drawn(generator: np.random.Generator, centres: NDArray[np.uint64], count: int) -> NDArray[Any]:
    """Codes around the centres, packed: uint8 [count, 8]."""
    flips = generator.integers(0, 2**64, (4, count), dtype=np.uint64)
    few = np.where(generator.random(count) < 0.5, np.uint64(2**64 - 1), flips[3])
    codes = centres[generator.integers(len(centres), size=count)]
    return (codes ^ (flips[0] & flips[1] & flips[2] & few)).view(np.uint8).reshape(count, -1)


def timed(search: Search, queries: NDArray[np.uint8]) -> tuple[list[NDArray[Any]], str]:
    """Distances of each query; median milliseconds for one, of the processor and by the clock."""
    answers, seconds = [], []
    for query in queries:
        start, clock = time.process_time(), time.perf_counter()
        answers.append(search(query))
        seconds.append((time.process_time() - start, time.perf_counter() - clock))
    own, elapsed = 1000 * np.median(seconds, axis=0)
    return answers, f"{own:.2f} | {elapsed:.2f}"


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
    parser.add_argument(
        "--lists", type=int, help="of FAISS and LanceDB; as many as ours take them hours at 100 M"
    )
    parser.add_argument("--alone", action="store_true", help="ours alone, checked by itself")
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
        begun = time.perf_counter()
        for start in range(0, arguments.codes, BLOCK):
            part = codes[start : start + BLOCK]
            part[:] = drawn(generator, centres, len(part))
            if start % (100 * BLOCK) == 0:
                elapsed = time.perf_counter() - begun
                print(f"{start + len(part):,} codes drawn in {elapsed:.0f} s", flush=True)
        codes.flush()
        one = build_lists(Path(temporary, "compile"), codes[:1000], BITS)
        one.search(queries[0], NEAREST)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, clock = time.process_time(), time.perf_counter()
        lists = build_lists(
            Path(temporary, "lists"), codes, BITS, RECALL, threads=arguments.threads
        )
        built, elapsed = time.process_time() - start, time.perf_counter() - clock
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"ours: {built:.0f} CPU s, {elapsed:.0f} s, {lists.facts}", flush=True)
        known = np.asarray(list(lists.sample(100, seed=1)))  # to choose the others' effort by

        def line(name: str, seconds: float, width: float, search: Search) -> None:
            answers, once = timed(search, queries)
            found = recall_of(answers, furthest)
            rows.append(f"| {name} | {seconds:.0f} | {width:.1f} | {found:.4f} | {once} |")
            print(rows[-1], flush=True)

        def ours(code: NDArray[np.uint8]) -> NDArray[Any]:
            return lists.search(code, NEAREST)[0]

        def all_of_ours(code: NDArray[np.uint8]) -> NDArray[Any]:
            return lists.search(code, NEAREST, lists.facts.lists)[0]

        flat = faiss.IndexBinaryFlat(BITS)
        start = time.process_time()
        if not arguments.alone:
            flat.add(np.asarray(codes))
        added = time.process_time() - start
        exact = all_of_ours if arguments.alone else _faiss(flat)
        furthest = np.array([exact(query)[NEAREST - 1] for query in queries])
        facts = lists.facts
        name = f"ours, {facts.lists:,} lists, {facts.probes} looked into"
        line(name, built, lists.nbytes() / len(codes), ours)
        if arguments.alone:
            line("ours, all lists (exact)", 0, 12, all_of_ours)
        else:
            line("FAISS IndexBinaryFlat (exact)", added, 8, _faiss(flat))
            far_known = np.array([exact(one)[NEAREST - 1] for one in known])
            flat.reset()
            count = arguments.lists or facts.lists
            for kind, make in (("FAISS IndexBinaryIVF", _ivf), ("LanceDB IVF_FLAT", _lance)):
                start = time.process_time()
                made = make(codes, count, Path(temporary))
                seconds = time.process_time() - start

                def reach(probes: int, made: Made = made) -> float:
                    return recall_of([made(probes)(one) for one in known], far_known)

                probes = until(_tries(count), reach)
                width = 16 if make is _ivf else _bytes(Path(temporary, "lance")) / len(codes)
                name = f"{kind}, {count:,} lists, {probes} looked into"
                line(name, seconds, width, made(probes))
            rows += _usearch(codes[: arguments.usearch], queries, known, arguments)
        lines = [
            f"# Nearest codes among {len(codes):,}, one query at a time",
            "",
            __doc__.partition("\n\n")[2].partition("\n\n")[2].strip().replace("\n", " "),
            "",
            f"{facts}. {arguments.threads} thread(s) built, in {elapsed:,.0f} s by the clock; "
            f"memory grew by {grown:,.0f} MB meanwhile, pages of mapped files among it.",
            "",
            "| index | built in CPU s | bytes a code | recall@100 | CPU ms a query | elapsed |",
            "|---|---:|---:|---:|---:|---:|",
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


def _ivf(codes: NDArray[np.uint8], lists: int, _: Path) -> Made:
    index = faiss.IndexBinaryIVF(quantizer := faiss.IndexBinaryFlat(BITS), BITS, lists)
    index.cp.max_points_per_centroid, index.cp.niter = 40, 4
    generator = np.random.default_rng(0)
    index.train(codes[np.sort(generator.choice(len(codes), min(len(codes), 40 * lists), False))])
    for start in range(0, len(codes), BLOCK):
        index.add(np.asarray(codes[start : start + BLOCK]))

    def made(probes: int, _: Any = quantizer) -> Search:  # which the index does not keep alive
        index.nprobe = probes
        return _faiss(index)

    return made


def _lance(codes: NDArray[np.uint8], lists: int, folder: Path) -> Made:
    import lancedb
    import pyarrow as arrow

    schema = arrow.schema([arrow.field("vector", arrow.list_(arrow.uint8(), BITS // 8))])

    def batches() -> Iterator[Any]:
        for start in range(0, len(codes), BLOCK):
            octets = arrow.array(np.asarray(codes[start : start + BLOCK]).ravel())
            column = arrow.FixedSizeListArray.from_arrays(octets, BITS // 8)
            yield arrow.record_batch([column], schema=schema)

    table = lancedb.connect(folder / "lance").create_table("codes", batches(), schema)
    table.create_index("vector", config=lancedb.index.IvfFlat("hamming", lists))

    def made(probes: int) -> Search:
        def search(code: NDArray[np.uint8]) -> NDArray[Any]:
            query = table.search(code).distance_type("hamming").nprobes(probes).limit(NEAREST)
            return np.asarray(query.select(["_distance"]).to_arrow()["_distance"])

        return search

    return made


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
        f"{recall_of(answers, furthest):.4f} | {once} |"
    ]


if __name__ == "__main__":
    main()
