"""Damage files of every kind and read them: ``python -m tests.fuzz --count 20000 --seed 0``.

Nothing may happen but an answer or an ``InputError`` of one line: no other exception, no crash, no
more than 5 s or 1 GB, nothing run, and no altered data taken for good where a format has checksums.
One case again: ``python -m tests.fuzz --kind .png --seed 0 --first 17 --count 1``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.readers import READERS, SLOW

Todo = list[tuple[str, int, int]]
Failure = dict[str, object]
SHARE = 200  # a kind that starts a process a case gets this part of the cases of another
STUCK = 120  # seconds without a case that ends: wall time, so a busy machine is no hang


def main() -> None:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of each kind's first case")
    parser.add_argument("--kind", nargs="+", choices=list(READERS), help="only these")
    own = parser.parse_args()
    sys.exit(1 if run(own.count, own.seed, own.kind or list(READERS), own.first) else 0)


def run(count: int, seed: int, kinds: list[str], first: int = 0) -> list[Failure]:
    """Run ``count`` cases, shared among the kinds, and print a line a kind; gives the failures."""
    weights = {kind: 1 / SHARE if kind in SLOW and len(kinds) > 1 else 1.0 for kind in kinds}
    each = {kind: max(1, round(count * weights[kind] / sum(weights.values()))) for kind in kinds}
    todo = [(kind, first, first + each[kind]) for kind in kinds]
    failures: list[Failure] = []
    while todo:  # begun anew behind a case that ends the process
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            todo, found = _run(todo, seed, Path(folder))
        failures += found
    print(f"{sum(each.values()):,} cases, {len(failures)} failed", flush=True)
    return failures


def _run(todo: Todo, seed: int, folder: Path) -> tuple[Todo, list[Failure]]:
    """What is left to do when a process has ended, and the failures up to there."""
    log, error_file = folder / "log.jsonl", folder / "errors.txt"
    log.touch()
    failures: list[Failure] = []
    place = [json.dumps(todo), str(seed), str(folder), str(log)]
    with error_file.open("w") as errors, log.open() as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *place],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        kind, number, since, ended = "", -1, time.monotonic(), False
        while True:
            lines = stream.readlines()
            for text in lines:
                line = json.loads(text)
                kind, number = line["kind"], line.get("begins", number)
                if "problem" in line:
                    failures.append(line)
                    print(f"  FAILED {text.strip()}", flush=True)
                if "counts" in line:
                    print(f"{kind:13} {line['counts']}", flush=True)
                    todo = [part for part in todo if part[0] != kind]
            since = time.monotonic() if lines else since
            if ended:
                break
            ended = process.poll() is not None
            if not ended and time.monotonic() - since > STUCK:
                process.kill()
            time.sleep(0.2)
    if process.returncode == 0:
        return [], failures
    if number < 0:
        raise RuntimeError(f"no case began: {error_file.read_text()[-2000:]}")
    failures.append({"kind": kind, "number": number, "problem": f"status {process.returncode}"})
    print(f"  FAILED {json.dumps(failures[-1])}", flush=True)
    rest = [(name, number + 1 if name == kind else first, last) for name, first, last in todo]
    return [part for part in rest if part[1] < part[2]], failures


if __name__ == "__main__":
    main()
