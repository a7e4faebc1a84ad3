"""Runs cases in this process: reads ``[kind, first, last]`` a line, and tells each case before it
begins, so that a crash has a name.
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
from typing import TextIO

import numpy as np

from tests.fuzz.commands import COMMANDS
from tests.fuzz.mutate import mutated
from tests.fuzz.place import prepare
from tests.fuzz.readers import CHECKED, READERS, Reader
from tests.fuzz.seeds import Seeds, all_seeds, whole_archive
from udmsh_pl.errors import InputError

MOST_SECONDS = 5.0  # of processor time
MOST_GROWTH = 1_000_000  # kB


def case(seeds: Seeds, kind: str, seed: int, number: int) -> tuple[bytes, bytes]:
    """The whole file and the damaged one of a case: the same on every machine, but for files that
    a command wrote.
    """
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    whole = seeds[kind][int(rng.integers(0, len(seeds[kind])))]
    kinds = sorted(seeds)
    other = seeds[kinds[int(rng.integers(0, len(kinds)))]][0]
    return whole, mutated(whole, other, rng)


class Cases:
    """Cases by kind and number.

    Args:
        seed: of all damage
        folder: an empty one; in ``base`` the folder of ``place.py``, where commands are run
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder, self.trace = seed, folder, folder / "ran"
        self.seeds = all_seeds(self.trace)
        if (folder / "base").exists():
            self.seeds |= {kind: [one.whole(folder / "base")] for kind, one in COMMANDS.items()}
        self.expected: dict[str, dict[bytes, str]] = {}

    def run(self, kind: str, first: int, last: int, out: TextIO) -> None:
        """Cases ``first`` to ``last - 1``; what happens goes to ``out`` as JSON lines: cases that
        begin, cases that fail, and counts at the end.
        """
        counts: Counter[str] = Counter()
        if kind not in self.seeds:
            counts["left out, its library is not here"] = last - first
            first = last
        elif kind not in self.expected:
            wholes = self.seeds[kind]
            self.expected[kind] = {whole: self._answer(kind, whole) for whole in wholes}
        for number in range(first, last):
            whole, damaged = case(self.seeds, kind, self.seed, number)
            self._path(kind).write_bytes(damaged)
            _tell(out, {"begins": number})
            path, reader = self._path(kind), READERS[kind]
            problem = problem_of(kind, reader, path, whole, damaged, self.expected[kind], counts)
            if self.trace.exists():
                problem = "code was run"
                self.trace.rmdir()
            if problem:
                counts["failed"] += 1
                _tell(out, {"kind": kind, "number": number, "problem": problem})
        _tell(out, {"kind": kind, "counts": dict(counts)})

    def _path(self, kind: str) -> Path:
        return self.folder / f"case{kind}"

    def _answer(self, kind: str, whole: bytes) -> str:
        self._path(kind).write_bytes(whole)
        try:
            return READERS[kind](self._path(kind))
        except InputError:
            return "refused"


def problem_of(
    kind: str,
    reader: Reader,
    path: Path,
    whole: bytes,
    damaged: bytes,
    expected: dict[bytes, str],
    counts: Counter[str],
    most_seconds: float = MOST_SECONDS,
    most_growth: int = MOST_GROWTH,
) -> str:
    """What is wrong about how the reader takes a damaged file; empty if nothing is."""
    before, start = _peak(), time.process_time()
    answer, problem = "", ""
    try:
        answer = reader(path)
        counts["read"] += 1
    except InputError as error:
        counts["refused"] += 1
        if "\n" in str(error):
            problem = f"more than one line: {str(error)[:200]!r}"
        if len(str(error)) > 2000:
            problem = f"an error of {len(str(error))} characters"
    except BaseException as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    if time.process_time() - start > most_seconds:
        problem = f"took {time.process_time() - start:.1f} s"
    if _peak() - before > most_growth:
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


def _tell(out: TextIO, facts: dict[str, object]) -> None:
    print(json.dumps(facts), file=out, flush=True)


def main() -> None:
    seed, folder = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    prepare()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what others print is none of our lines
        cases = Cases(int(seed), Path(folder))
        for line in sys.stdin:
            cases.run(*json.loads(line), out)


if __name__ == "__main__":
    main()
