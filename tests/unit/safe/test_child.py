"""A limited child process answers, or its failure is named; it is never waited for without end."""

import time
from pathlib import Path

import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.safe.child import Child, ChildFailure, run_isolated

MODULE = """
import os, resource, sys, time
from udmsh_pl.errors import InputError

def read(source, *arguments): return {name}(source, *arguments)
def fine(source): print("noise"); sys.stdin.read()
def crash(source): os.abort()
def end(source): os._exit(7)
def hungry(source): bytes(2**28)
def refuse(source): raise InputError("this is\\nno file of ours")
def blame_itself(source):
    error = InputError("its own cause")
    raise error from error
def fail(source): raise KeyError("a" * 5000)
def write(source): open(source + ".out", "wb").write(bytes(2**28))
def sleep(*_): time.sleep(60)
def twice(number, content): return [number, 2 * number], 2 * content
def limits(): return [resource.getrlimit(one)[0] for one in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)], b""
def isolated(): return [sys.flags.isolated, os.environ["OMP_NUM_THREADS"]], b""
def babble(): os.write(4, b"x" * 99); os.write(1, b"x" * 99); return {{"a": 1}}, b""
def huge(): return 0, bytes(2**27)
"""  # noqa: E501


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the package, which a child finds as its parent would."""
    monkeypatch.setenv("UDMSH_MAX_BYTES", str(2**24))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "module_of_a_child.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", r"py: its parser crashed \(signal 6\): the file is damaged or hostile"),
        ("end", r"py: its parser crashed \(status 7\)"),
        ("hungry", "py: to read it takes more than 16,777,216 bytes; set UDMSH_MAX_BYTES higher"),
        ("write", "py: to read it takes more than 16,777,216 bytes"),
        ("refuse", "py: this is no file of ours$"),
        ("blame_itself", "py: its own cause"),
        ("fail", r"py cannot be read safely \(KeyError: 'a{,200}\): save it again"),
    ],
)
def test_what_fails_in_a_child_is_one_line(module: Path, name: str, message: str) -> None:
    module.write_text(MODULE.format(name=name))
    with pytest.raises(InputError, match=message) as raised:
        run_isolated(module.stem, module)
    assert "\n" not in str(raised.value)


def test_what_a_parser_prints_and_reads_does_not_disturb(module: Path) -> None:
    module.write_text(MODULE.format(name="fine"))
    run_isolated(module.stem, module)


def test_a_child_answers_until_it_is_ended(module: Path) -> None:
    module.write_text(MODULE.format(name="fine"))
    child = Child(module.stem, 1 << 26)
    child.wait_until_ready(60)
    try:
        for content in (b"", b"\0\n", bytes(range(256)) * 4000):
            assert child.call("twice", 3, content=content, seconds=20) == ([3, 6], 2 * content)
        assert child.call("limits", seconds=20) == ([0, 0], b"")
        assert child.call("isolated", seconds=20) == ([1, "1"], b"")
        with pytest.raises(ChildFailure) as failure:
            child.call("hungry", "", seconds=20)
        assert failure.value.cause == "memory"
        assert child.alive
        assert child.call("twice", 4, content=b"b", seconds=20) == ([4, 8], b"bb")
    finally:
        child.end()
    assert not child.alive
    with pytest.raises(ChildFailure):
        child.call("twice", 4, content=b"b", seconds=20)


@pytest.mark.parametrize(
    ("name", "cause"), [("sleep", "time"), ("babble", "crash"), ("huge", "crash")]
)
def test_one_that_does_not_keep_to_it_is_killed(module: Path, name: str, cause: str) -> None:
    module.write_text(MODULE.format(name="fine"))
    child = Child(module.stem, 1 << 28)
    child.wait_until_ready(60)
    start = time.monotonic()
    with pytest.raises(ChildFailure) as failure:
        child.call(name, seconds=1)
    assert time.monotonic() - start < 20
    assert failure.value.cause == cause
    assert not child.alive
    child.end()


def test_a_module_that_is_not_there(module: Path) -> None:
    child = Child("no_such_module", 1 << 26)
    with pytest.raises(ChildFailure) as failure:
        child.wait_until_ready(60)
    assert failure.value.cause == "crash"
    child.end()
