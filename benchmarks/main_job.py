"""The main job: cells of the sample's plan, on free cores and beside a busy thread on each core.

    python benchmarks/main_job.py [--rounds 3] [--clone]

A cell is timed as a whole process, `udmsh reproduce sample --methods M --bits 64 --seeds 0`, with
features and teachers at hand, so imports, table and report count. The load is one process a core
that multiplies small matrices on one thread; the script starts and ends it. Rounds take turns:
free, loaded, free, ... A finished plan is timed too: what `make reproduce` costs when nothing is
left to do. ``--clone`` adds `make reproduce` from a clean clone, installation included.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from udmsh_pl.safe.files import write_text

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("itq", "udmsh", "udmsh-plus")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
BUSY = "import numpy as n\na = n.random.rand(300, 300)\nwhile True: a @ a"


class Cost(NamedTuple):
    """Seconds of a command and its children."""

    wall: float
    processor: float


def run(command: Sequence[object], folder: Path) -> Cost:
    """Run a command to its end; a failure ends the benchmark with what it printed."""
    start = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output.txt").read_text(errors="replace")[-3000:])
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime)


@contextmanager
def busy_cores() -> Iterator[None]:
    """One busy process of one thread for each core."""
    command = [sys.executable, "-c", BUSY]
    loads = [
        subprocess.Popen(command, env={**os.environ, **ONE_THREAD})
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        time.sleep(2)  # they import NumPy first
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()


def cell(method: str, folder: Path) -> Cost:
    """One cell with 64 bits, whose features and teacher are kept in ``folder``."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, "-m", "udmsh_pl", "reproduce", "sample", "--methods", method]
    command += ["--bits", 64, "--seeds", 0, "--out", "run", "--data.cache_dir", "cache"]
    return run(command, folder)


def cells(rounds: int, folder: Path) -> list[str]:
    """A table of cells, free and loaded."""
    lines = [
        "| command, from start to table | free cores, s | processor, s "
        "| beside one busy thread a core, s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for method in METHODS:
        cell(method, folder)  # features and teacher
        free, loaded = [], []
        for _ in range(rounds):
            free.append(cell(method, folder))
            with busy_cores():
                loaded.append(cell(method, folder))
        wall, beside = (statistics.median(one.wall for one in found) for found in (free, loaded))
        spent = statistics.median(one.processor for one in free)
        lines.append(
            f"| a cell of `{method}` | {wall:.1f} | {spent:.1f} | {beside:.1f} "
            f"| {beside / wall:.2f} |"
        )
        print(lines[-1], flush=True)
    again = statistics.median(
        run(
            [sys.executable, "-m", "udmsh_pl", "reproduce", "sample", "--methods", METHODS[-1],
             "--bits", 64, "--seeds", 0, "--out", "run", "--data.cache_dir", "cache"],
            folder,
        ).wall
        for _ in range(rounds)
    )  # fmt: skip
    lines.append(f"| the same once more, with nothing left to do | {again:.1f} | | | |")
    return lines


def clone(rounds: int, folder: Path) -> list[str]:
    """`make reproduce` from a clean clone: installation, and the run itself."""
    lines = [
        "| clean clone | installation, s | run, s | run, processor s |",
        "|---|---:|---:|---:|",
    ]
    for number in range(1, rounds + 1):
        place = folder / f"clone-{number}"
        run(["git", "clone", "--quiet", ROOT, place], folder)
        install = run(["make", "install"], place)
        os.environ["UDMSH_CACHE"] = str(place / "cache")
        done = run(["make", "reproduce", f"ARGS=--data.cache_dir {place}/cache"], place)
        lines.append(
            f"| run {number} | {install.wall:.0f} | {done.wall:.0f} | {done.processor:.0f} |"
        )
        print(lines[-1], flush=True)
        shutil.rmtree(place)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clone", action="store_true", help="also from a clean clone; minutes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/main_job.md")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = cells(arguments.rounds, folder)
        if arguments.clone:
            lines += ["", *clone(arguments.rounds, folder)]
    write_text(
        arguments.out,
        "# The main job\n\nMedians of "
        f"{arguments.rounds} rounds, {os.cpu_count()} cores of {platform.machine()}, commit "
        f"{commit}, load {load:.1f} before the start. `python benchmarks/main_job.py`.\n\n"
        + "\n".join(lines)
        + "\n",
    )


if __name__ == "__main__":
    main()
