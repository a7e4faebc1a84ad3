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
from tests.fuzz.readers import CHECKED, READERS, SLOW
from tests.fuzz.seeds import Seeds, all_seeds, whole_archive
from udmsh_pl.errors import InputError

MOST_SECONDS = 5.0  # of processor time
MOST_GROWTH = 1_000_000  # kB
_PAGE = resource.getpagesize() // 1024


def case(seeds: Seeds, kind: str, seed: int, number: int) -> tuple[bytes, bytes]:
    """The whole file and the damaged one of a case: the same on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    whole = seeds[kind][int(rng.integers(0, len(seeds[kind])))]
    kinds = sorted(seeds)
    other = seeds[kinds[int(rng.integers(0, len(kinds)))]][0]
    return whole, mutated(whole, other, rng)


def run(kind: str, seed: int, first: int, last: int, folder: Path, log: Path) -> dict[str, int]:
    """Cases ``first`` to ``last - 1``; failures go to ``log`` as JSON lines.

    Returns:
        How many were read, refused, or failed.
    """
    warnings.simplefilter("ignore")
    trace = folder / "ran"
    seeds = all_seeds(trace)
    path = folder / f"case{kind}"
    expected: dict[bytes, str] = {}
    for whole in seeds[kind]:
        path.write_bytes(whole)
        try:
            expected[whole] = READERS[kind](path)
        except InputError:
            expected[whole] = "refused"
    counts: Counter[str] = Counter()
    with log.open("a") as stream:
        for number in range(first, last):
            whole, damaged = case(seeds, kind, seed, number)
            path.write_bytes(damaged)
            _tell(stream, {"begins": number})
            problem = _problem(kind, path, whole, damaged, expected, counts)
            if trace.exists():
                problem = "code was run"
                trace.rmdir()
            if problem:
                counts["failed"] += 1
                _tell(stream, {"kind": kind, "number": number, "problem": problem})
    return dict(counts)


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
    kind, seed, first, last, folder, log = sys.argv[1:]
    os.nice(10)
    if kind not in SLOW:  # they limit their own processes
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(run(kind, int(seed), int(first), int(last), Path(folder), Path(log))))


if __name__ == "__main__":
    main()
