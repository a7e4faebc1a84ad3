"""The command line itself: output in any encoding, and Ctrl-C, end without a traceback."""

import io
import subprocess
import sys

import pytest

from udmsh_pl import __version__
from udmsh_pl.cli import main
from udmsh_pl.commands import table

NAME = "méthode-模型-\udcff"  # the last is a byte that is no UTF-8


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"m\xe9thode-\u6a21\u578b-\udcff"),
        ("latin-1", b"m\xe9thode-" + rb"\u6a21\u578b-\udcff"),
        ("utf-8", "méthode-模型-".encode() + b"\xff"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, expected: bytes
) -> None:
    monkeypatch.setattr(table, "run", lambda args: print(NAME) or 0)
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(SystemExit) as stop:
        main(["table", "run"])
    assert stop.value.code == 0
    out.flush()
    assert out.buffer.getvalue().rstrip() == expected
    with pytest.raises(SystemExit) as stop:
        main([NAME])
    assert stop.value.code == 2
    errors.flush()
    assert b"udmsh: error: no command" in errors.buffer.getvalue()


def by_the_user(args: object) -> int:
    raise KeyboardInterrupt


def in_training(args: object) -> int:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)  # as Lightning's trainer does


@pytest.mark.parametrize("where", [by_the_user, in_training])
def test_an_interruption_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: object
) -> None:
    monkeypatch.setattr(table, "run", where)
    with pytest.raises(SystemExit) as stop:
        main(["table", "run"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "udmsh: interrupted\n"


def test_a_fresh_interpreter_starts_it() -> None:
    command = [sys.executable, "-m", "udmsh_pl"]  # tests of what commands do fork instead
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"udmsh {__version__}\n"
    failed = subprocess.run([*command, "trian"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("udmsh: error: no command 'trian'")


def test_other_exits_keep_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "run", lambda args: sys.exit(3))
    with pytest.raises(SystemExit) as stop:
        main(["table", "run"])
    assert stop.value.code == 3
