"""Runs cases of one kind in this process and tells each before it begins, so that a crash has a
name.
"""

import gc
import json
import os
import resource
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import CHECKED, READERS
from tests.fuzz.seeds import Seeds, all_seeds, whole_archive
from udmsh_pl.errors import InputError

MOST_SECONDS = 5.0  # of processor time
MOST_GROWTH = 1_000_000  # kB


def case(seeds: Seeds, kind: str, seed: int, number: int) -> tuple[bytes, bytes]:
    """The whole file and the damaged one of a case: the same on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    whole = seeds[kind][int(rng.integers(0, len(seeds[kind])))]
    kinds = sorted(seeds)
    other = seeds[kinds[int(rng.integers(0, len(kinds)))]][0]
    return whole, mutated(whole, other, rng)


def run(todo: list[tuple[str, int, int]], seed: int, folder: Path, log: Path) -> None:
    """Cases ``first`` to ``last - 1`` of each kind; what happens goes to ``log`` as JSON lines:
    cases that begin, cases that fail, and counts behind each kind.
    """
    warnings.simplefilter("ignore")
    trace = folder / "ran"
    seeds = all_seeds(trace)
    with log.open("a") as stream:
        for kind, first, last in todo:
            if kind not in seeds:
                _tell(stream, {"kind": kind, "counts": {"left out, its library is not here": 1}})
                continue
            path = folder / f"case{kind}"
            expected = {whole: _answer(kind, path, whole) for whole in seeds[kind]}
            counts: Counter[str] = Counter()
            for number in range(first, last):
                whole, damaged = case(seeds, kind, seed, number)
                path.write_bytes(damaged)
                _tell(stream, {"kind": kind, "begins": number})
                problem = _problem(kind, path, whole, damaged, expected, counts)
                if trace.exists():
                    problem = "code was run"
                    trace.rmdir()
                if problem:
                    counts["failed"] += 1
                    _tell(stream, {"kind": kind, "number": number, "problem": problem})
            _tell(stream, {"kind": kind, "counts": dict(counts)})


def _answer(kind: str, path: Path, whole: bytes) -> str:
    path.write_bytes(whole)
    try:
        return READERS[kind](path)
    except InputError:
        return "refused"


def _problem(
    kind: str,
    path: Path,
    whole: bytes,
    damaged: bytes,
    expected: dict[bytes, str],
    counts: Counter[str],
) -> str:
    before, start = _peak(), time.process_time()
    answer, problem = "", ""
    try:
        answer = READERS[kind](path)
        counts["read"] += 1
    except InputError as error:
        counts["refused"] += 1
        if "\n" in str(error):
            problem = f"more than one line: {str(error)[:200]!r}"
        if len(str(error)) > 2000:
            problem = f"an error of {len(str(error))} characters"
    except BaseException as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    if time.process_time() - start > MOST_SECONDS:
        problem = f"took {time.process_time() - start:.1f} s"
    if _peak() - before > MOST_GROWTH:
        problem = f"grew by {(_peak() - before) / 1e6:.1f} GB"
        gc.collect()
    checked = kind in CHECKED or (kind == ".pt" and whole_archive(whole))
    if answer and checked and damaged != whole and answer != expected[whole]:
        problem = "altered data was taken for good"
    return problem


def _peak() -> int:
    """Largest memory so far in kB, of this process or of any child."""
    return max(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    )


def _tell(stream: object, facts: dict[str, object]) -> None:
    print(json.dumps(facts), file=stream, flush=True)  # type: ignore[call-overload]


def main() -> None:
    todo, seed, folder, log = sys.argv[1:]
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run(json.loads(todo), int(seed), Path(folder), Path(log))


if __name__ == "__main__":
    main()
