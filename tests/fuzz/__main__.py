"""Damage files of every kind, and read them alone or by whole commands:
``python -m tests.fuzz --count 20000 --seed 0 --jobs 2``.

Nothing may happen but an answer or an ``InputError`` of one line: no other exception, no crash, no
more than 5 s or 1 GB, nothing run, and no altered data taken for good where a format has checksums.
Counts are printed every minute, at the end, and when it is told to stop (SIGTERM, as ``timeout``
sends it). One case again: ``python -m tests.fuzz --kind .png --seed 0 --first 17 --count 1``.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.commands import COMMANDS
from tests.fuzz.readers import READERS, SLOW

Part = tuple[str, int, int]  # kind, first and last but one case
Failure = dict[str, object]
SHARE = 50  # a kind that takes long gets this part of the cases of another
AT_ONCE, AT_ONCE_SLOW = 500, 8  # cases that a worker is given
STUCK = 300  # seconds without a case that ends: wall time, so a busy machine is no hang
EVERY = 60  # seconds


def main() -> None:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of each kind's first case")
    parser.add_argument("--kind", nargs="+", choices=list(READERS), help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    own = parser.parse_args()
    kinds = own.kind or list(READERS)
    sys.exit(1 if run(own.count, own.seed, kinds, own.first, own.jobs) else 0)


def parts(count: int, kinds: list[str], first: int) -> list[Part]:
    """``count`` cases shared among the kinds, cut in parts; all kinds come forward together."""
    shares = {kind: 1 / SHARE if kind in SLOW and len(kinds) > 1 else 1.0 for kind in kinds}
    found = []
    for kind, share in shares.items():
        each = max(1, round(count * share / sum(shares.values())))
        step = AT_ONCE_SLOW if kind in SLOW else AT_ONCE
        for start in range(0, each, step):
            part = kind, first + start, first + min(start + step, each)
            found.append((start / each, part))
    return [part for _, part in sorted(found)]


class Run:
    """Parts of the work that is left, and what was found."""

    def __init__(self, todo: list[Part], seed: int, folder: Path) -> None:
        self.todo, self.seed, self.folder = todo[::-1], seed, folder
        self.counts: dict[str, Counter[str]] = {}
        self.failures: list[Failure] = []
        self.workers: set[subprocess.Popen[str]] = set()
        self.stopped = False
        self.begun = time.monotonic()

    def work(self) -> None:
        """Start a worker, and another one behind a case that ends it, until nothing is left."""
        while self.todo and not self.stopped:
            with tempfile.TemporaryDirectory(dir=self.folder) as own:
                if (self.folder / "base").exists():
                    (Path(own) / "base").symlink_to(self.folder / "base")
                with (Path(own) / "errors.txt").open("w+") as errors:
                    self._work(Path(own), errors)

    def stop(self) -> None:
        """End all workers."""
        self.stopped = True
        for worker in list(self.workers):
            worker.kill()

    def tell(self, every_kind: bool) -> None:
        """Print counts."""
        if every_kind:
            for kind, counts in sorted(self.counts.items()):
                print(f"{kind:26} {dict(counts)}", flush=True)
        cases = sum(sum(one.values()) - one["failed"] for one in self.counts.values())
        seconds = time.monotonic() - self.begun
        print(f"{cases:,} cases in {seconds:,.0f} s, {len(self.failures)} failed", flush=True)

    def _work(self, own: Path, errors: object) -> None:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(self.seed), str(own)]
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )  # fmt: skip
        self.workers.add(worker)
        while self.todo and not self.stopped:
            part = self.todo.pop()
            number = self._part(worker, part)
            if number is None:
                continue
            worker.kill()
            if not self.stopped:
                self._ended(part, number, worker.wait(), own)
            break
        self.workers.discard(worker)
        worker.kill()
        worker.wait()

    def _part(self, worker: "subprocess.Popen[str]", part: Part) -> int | None:
        """Have a part done; gives the number of the case that ended the worker, if one did."""
        number = part[1]
        try:
            worker.stdin.write(json.dumps(part) + "\n")
            worker.stdin.flush()
        except OSError:
            return number
        for text in _lines(worker.stdout.fileno()):
            line = json.loads(text)
            number = line.get("begins", number)
            if "problem" in line:
                self._failed(line)
            if "counts" in line:
                self.counts.setdefault(part[0], Counter()).update(line["counts"])
                return None
        return number

    def _ended(self, part: Part, number: int, status: int, own: Path) -> None:
        said = (own / "errors.txt").read_text(errors="replace")[-500:]
        self._failed({"kind": part[0], "number": number, "problem": f"status {status}: {said}"})
        self.counts.setdefault(part[0], Counter())["ended the process"] += 1
        if number + 1 < part[2]:
            self.todo.append((part[0], number + 1, part[2]))

    def _failed(self, failure: Failure) -> None:
        self.failures.append(failure)
        print(f"  FAILED {json.dumps(failure)}", flush=True)


def run(count: int, seed: int, kinds: list[str], first: int = 0, jobs: int = 1) -> list[Failure]:
    """Run ``count`` cases, shared among the kinds, and print a line a kind; gives the failures."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        if set(kinds) & set(COMMANDS):
            place = [sys.executable, "-m", "tests.fuzz.place", str(folder / "base")]
            subprocess.run(place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        found = Run(parts(count, kinds, first), seed, folder)
        threads = [threading.Thread(target=found.work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        told = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            try:
                time.sleep(0.5)
            except KeyboardInterrupt:
                found.stop()
            if time.monotonic() - told > EVERY:
                told += EVERY
                found.tell(every_kind=False)
        found.tell(every_kind=True)
    return found.failures


def _lines(stream: int) -> Iterator[bytes]:
    """Lines as they come, until the stream ends or is silent for long."""
    rest = b""
    while select.select([stream], [], [], STUCK)[0]:
        block = os.read(stream, 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # told twice, it would not end in order
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    main()
