"""``udmsh index`` killed at random moments: afterwards the index is the old one or the new one."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serving import draw, make_collection, quick
from udmsh_pl.search import ImageIndex
from udmsh_pl.search.store import MANIFEST

KILLS = 30
# The command with an encoder that takes no time, so that the moments fall on what writes. It reads
# what it has to do from its input: the imports, which take seconds, come before the clock starts.
SCRIPT = """
import sys
from tests.serving import use_quick_encoder
use_quick_encoder()
from udmsh_pl.cli import main
import udmsh_pl.commands.index
print("ready", flush=True)
sys.stdin.readline()
main(["index", *sys.argv[1:]])
"""


# The same, forked for each command, so that a hundred of them take seconds.
FORKING = """
import json, os, sys
from tests.serving import use_quick_encoder
use_quick_encoder()
from udmsh_pl.cli import main
import udmsh_pl.commands.index, udmsh_pl.search.build
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        try:
            main(["index", *json.loads(line)])
        except SystemExit as stop:
            os._exit(stop.code or 0)
        os._exit(9)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """``udmsh index`` again and again, each in a process of its own that can be killed."""

    def __init__(self) -> None:
        self.process = start(FORKING)

    def run(self, arguments: tuple[object, ...], seconds: float | None = None) -> int:
        """Exit status; after so many seconds it is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):  # it has ended, and its parent has seen it
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that has imported all it needs."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


class Command:
    """``udmsh index`` in a process of its own, which waits before its first step."""

    def __init__(self, *arguments: object) -> None:
        self.process = start(SCRIPT, *arguments)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        out, problems = self.process.communicate(timeout=300)
        return self.process.returncode, out, problems


def state(index: Path) -> str | None:
    """What an index holds, opened and read as a whole; None where there is none yet."""
    if not (index / MANIFEST).exists():
        return None
    found = ImageIndex.open(index)
    digest = hashlib.sha256(repr(list(found.rows.names)).encode())
    for array in (found.rows.codes, found.rows.features, found.rows.files["digest"]):
        digest.update(array.tobytes())
    for row in range(len(found)):
        digest.update(found.thumbnail(row))
    return digest.hexdigest()


def sound(index: Path) -> None:
    """Nothing of a killed run stays after the next one."""
    named = {one.name for one in ImageIndex.open(index).manifest.segments}
    assert {path.name for path in (index / "segments").iterdir()} == named
    assert not list(index.rglob("*.part*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: quick)
    return make_collection(tmp_path, 120)


def run(*arguments: object) -> tuple[float, str]:
    """Seconds that a whole run takes, and what it says."""
    command = Command(*arguments)
    start = time.perf_counter()
    command.go()
    code, out, problems = command.end()
    assert code == 0, problems
    return time.perf_counter() - start, out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["index", "update"])
def test_killed_at_random_moments(place: Path, tmp_path: Path, what: str) -> None:
    pictures, encoder = tmp_path / "pictures", tmp_path / "encoder"
    old, before, work = None, tmp_path / "before", tmp_path / "work.index"
    arguments = (pictures, "--out", work, "--model", encoder)
    if what == "update":
        shutil.copytree(place, before)
        old = state(before)
        (pictures / "02.png").unlink()
        draw(pictures / "03.png", 800)
        for number in range(60):
            draw(pictures / f"new {number}.png", 900 + number)

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        if what == "update":
            shutil.copytree(before, work)

    forks = Forks()
    fresh()
    begun = time.perf_counter()
    assert forks.run(arguments) == 0
    seconds = time.perf_counter() - begun
    new = state(work)
    assert new not in (None, old)
    generator, seen = random.Random(0), {"old": 0, "new": 0}
    for _ in range(KILLS):
        fresh()
        status = forks.run(arguments, generator.uniform(0, 1.1 * seconds))
        found = state(work)
        assert found in (old, new)
        assert status == -signal.SIGKILL or found == new
        seen["old" if found == old else "new"] += 1
        assert forks.run(arguments) == 0  # the next run ends what this one began
        assert state(work) == new
        sound(work)
    forks.process.kill()
    print(what, seen)
    assert seen["old"] > KILLS // 4


@pytest.mark.slow
def test_two_at_once(place: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for number in range(60):
        draw(pictures / f"new {number}.png", 900 + number)
    commands = [Command(pictures, "--out", place) for _ in range(2)]
    for command in commands:
        command.go()
    outcomes = [command.end() for command in commands]
    refused = [problems for code, _, problems in outcomes if code]
    assert [problems for problems in refused if "is writing" not in problems] == []
    assert len(refused) < 2
    assert len(ImageIndex.open(place)) == 181
    run(pictures, "--out", place)
    sound(place)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3, 6])  # the seventh and last is the manifest's
def test_a_full_disk_is_one_line(place: Path, tmp_path: Path, number: int) -> None:
    draw(tmp_path / "pictures/new.png", 900)
    old = state(place)
    full = (
        f"from tests.integration.probes import sabotage\nsabotage('os.fsync', {number}, 'full')\n"
    )
    code = SCRIPT.replace("print(", full + "print(")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "pictures", "--out", place],
        input="\n", capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("udmsh: error: ")
    assert "free some room" in line
    assert str(place) in line
    assert "Traceback" not in done.stderr
    assert state(place) == old
    assert run(tmp_path / "pictures", "--out", place)[1].startswith("1 added")
    sound(place)
