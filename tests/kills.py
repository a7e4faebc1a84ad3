"""Commands ended at random moments and run again: ``python -m tests.kills --count 9 --jobs 2``.

Each trial ends ``reproduce``, ``fit`` or an extraction one to three times, at a moment of its
processor time that is drawn, by a signal that nobody handles; then the command runs to its end.
What it leaves (the table and codes, the weights, the checksums of the features) must be what a run
that nothing disturbed leaves, and no half-written file may stay. One trial again: ``--first N
--count 1``. SIGTERM, as ``timeout`` sends it, prints the counts so far.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from tests.fuzz.place import SMALL, prepare, udmsh

EVERY = 60  # seconds


def _table(place: Path) -> str:
    """Values of ``results.csv`` and bits of every code."""
    from udmsh_pl.reports.table_rows import read_results

    rows = read_results(place / "plan/results.csv")
    found = sorted((*r.cell, r.metric, r.k, r.ties, r.value, r.split_sha256) for r in rows)
    codes = []
    for path in sorted(place.glob("plan/cells/*/codes.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            codes += [path.parent.name, *(_digest(arrays[name].tobytes()) for name in arrays)]
    return str(found + codes)


def _weights(place: Path) -> str:
    import torch

    path = max(place.glob("run/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    found = torch.load(path, "cpu", weights_only=True)
    state = found["state_dict"]
    weights = b"".join(state[name].numpy().tobytes() for name in sorted(state))
    return f"{found['epoch']} {found['global_step']} {_digest(weights)}"


def _stores(place: Path) -> str:
    stores = {
        path.parent.name: json.loads(path.read_text())["arrays"]
        for path in place.glob("cache/*/meta.json")
    }
    return json.dumps(stores, sort_keys=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SAVING = (
    "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.every_n_train_steps=1 "
    "--trainer.callbacks.save_top_k=-1"
)
# what is run, and what must be the same in the end
WORK: dict[str, tuple[str, Callable[[Path], str]]] = {
    "reproduce": (f"reproduce config.yaml {SMALL} --seeds 0 1 --out plan", _table),
    "fit": (f"fit --config config.yaml {SMALL} --trainer.max_epochs 3 {SAVING} --ckpt_path last",
            _weights),
    "extract": (f"data extract config.yaml {SMALL} --data.views 16", _stores),
}  # fmt: skip


def run(line: str, place: Path, seconds: float = 0) -> tuple[int, float]:
    """Run a command in a process of its own, which ends after so many seconds of its processor time
    (0: never); gives its status and the processor time that it took.
    """
    child = os.fork()
    if not child:
        status = 9
        try:
            os.chdir(place)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Lightning's handlers know no other
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            status, _, errors = udmsh(line)
            Path("errors.txt").write_text(errors)
        finally:
            os._exit(status)
    _, state, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(state), used.ru_utime + used.ru_stime


def undisturbed(base: Path, folder: Path) -> dict[str, tuple[float, str]]:
    """Of each command, the processor time that it takes and what it leaves."""
    found = {}
    for what, (line, answer) in WORK.items():
        place = fresh(base, folder, what)
        status, seconds = run(line, place)
        assert status == 0, (place / "errors.txt").read_text()[-2000:]
        found[what] = seconds, answer(place)
        shutil.rmtree(place)
    return found


def fresh(base: Path, folder: Path, name: str) -> Path:
    """A copy of the folder in which nothing has been run; for ``fit`` there are features."""
    place = folder / name
    gone = ["search", "plan", "run", "exported", *([] if name.startswith("fit") else ["cache"])]
    shutil.copytree(base, place, ignore=shutil.ignore_patterns(*gone))
    return place


def trial(
    number: int, seed: int, base: Path, folder: Path, whole: dict[str, tuple[float, str]]
) -> tuple[str, int, str]:
    """One trial: what was run, how often it was ended, and what is wrong, if anything."""
    rng = np.random.default_rng([seed, number])
    what = list(WORK)[number % len(WORK)]
    line, answer = WORK[what]
    seconds, expected = whole[what]
    place = fresh(base, folder, f"{what} {number}")
    kills = 0
    for _ in range(int(rng.integers(1, 4))):
        status, _ = run(line, place, float(rng.uniform(0.01, seconds)))
        kills += status == -signal.SIGPROF
        if status not in (0, -signal.SIGPROF):
            return what, kills, f"status {status}: {(place / 'errors.txt').read_text()[-500:]}"
    status, _ = run(line, place)
    if status != 0:
        return (
            what,
            kills,
            f"in the end status {status}: {(place / 'errors.txt').read_text()[-500:]}",
        )
    found = answer(place)
    problem = "" if found == expected else f"{found} where {expected} was expected"
    shutil.rmtree(place)
    return what, kills, problem


def trials(count: int, seed: int, first: int = 0, jobs: int = 1) -> list[str]:
    """Run trials, print counts, and give what went wrong."""
    import udmsh_pl.baselines
    import udmsh_pl.commands.data
    import udmsh_pl.runs.lightning_cli
    import udmsh_pl.runs.reproduce  # noqa: F401  # before the forks: they take seconds

    prepare()
    kills: Counter[str] = Counter()
    problems: list[str] = []
    begun = told = time.monotonic()

    def tell() -> None:
        print(
            f"{sum(kills.values())} kills {dict(kills)} in {time.monotonic() - begun:.0f} s, "
            f"{len(problems)} trials failed", flush=True
        )  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder, base = Path(name), Path(name) / "base"
        place = [sys.executable, "-m", "tests.fuzz.place", str(base)]
        subprocess.run(place, check=True, capture_output=True)
        whole = undisturbed(base, folder)
        one = partial(trial, seed=seed, base=base, folder=folder, whole=whole)
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"))
        try:
            waiting = {pool.submit(one, number): number for number in range(first, first + count)}
            for done in as_completed(waiting):
                what, times, problem = done.result()
                kills[what] += times
                if problem:
                    problems.append(f"trial {waiting[done]}, {what}: {problem}")
                    print(f"  FAILED {problems[-1]}", flush=True)
                if time.monotonic() - told > EVERY:
                    told = time.monotonic()
                    tell()
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):
                process.kill()
        pool.shutdown(cancel_futures=True)
    tell()
    return problems


def main() -> None:
    parser = argparse.ArgumentParser("tests.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="trials, of one to three kills each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    own = parser.parse_args()
    sys.exit(1 if trials(own.count, own.seed, own.first, own.jobs) else 0)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    main()
