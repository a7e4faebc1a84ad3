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
from collections import Counter
from pathlib import Path

from tests.fuzz.readers import READERS, SLOW

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


def run(count: int, seed: int, kinds: list[str], first: int = 0) -> list[dict[str, object]]:
    """Run ``count`` cases, shared among the kinds, and print a line a kind; gives the failures."""
    weights = {kind: 1 / SHARE if kind in SLOW and len(kinds) > 1 else 1.0 for kind in kinds}
    failures: list[dict[str, object]] = []
    for kind in kinds:
        share = max(1, round(count * weights[kind] / sum(weights.values())))
        start = time.perf_counter()
        found, counts = run_kind(kind, seed, first, first + share)
        failures += found
        told = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items()))
        print(f"{kind:13} {share:9,}  {told}  {time.perf_counter() - start:.0f} s", flush=True)
        for failure in found:
            print(f"  FAILED {json.dumps(failure)}", flush=True)
    return failures


def run_kind(
    kind: str, seed: int, first: int, last: int
) -> tuple[list[dict[str, object]], Counter[str]]:
    """Cases of one kind in a process of their own, begun anew behind one that crashes."""
    failures: list[dict[str, object]] = []
    counts: Counter[str] = Counter()
    while first < last:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            log = Path(folder) / "log.jsonl"
            place = [kind, str(seed), str(first), str(last), folder, str(log)]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *place],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            ended = _watch(process, log)
            output, errors = process.communicate()
            lines = (
                [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            )
            failures += [line for line in lines if "problem" in line]
            begun = [line["begins"] for line in lines if "begins" in line]
            if process.returncode == 0:
                counts.update(json.loads(output.splitlines()[-1]))
                return failures, counts
            if not begun:
                raise RuntimeError(f"{kind}: no case began: {errors[-2000:]}")
            problem = f"crashed with status {process.returncode}" if ended else "hung"
            failures.append({"kind": kind, "number": begun[-1], "problem": problem})
            counts["failed"] += 1
            counts["before a crash"] += len(begun) - 1
            first = begun[-1] + 1
    return failures, counts


def _watch(process: "subprocess.Popen[str]", log: Path) -> bool:
    """Wait for the end; False when it was stuck and had to be killed."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = log.stat().st_size if log.exists() else -1
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > STUCK:
            process.kill()
            return False
    return True


if __name__ == "__main__":
    main()
