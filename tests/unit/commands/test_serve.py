"""``udmsh serve`` from the command line: mistakes in one line, and a server that answers."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving import Client, make_collection

from udmsh_pl.cli import main

SCRIPT = """
import sys
from tests.serving import use_quick_encoder
from udmsh_pl.cli import main
if __name__ == "__main__":
    use_quick_encoder()
    main(["serve", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("fastapi", reason="needs the extra udmsh-pl[serve]")
    from tests.serving import quick

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: quick)
        return make_collection(tmp_path_factory.mktemp("home"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *map(str, arguments)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no index; `udmsh index" in refused(capsys, tmp_path)
    assert "give --token (without a value" in refused(capsys, index, "--host", "0.0.0.0")
    assert "16 ASCII" in refused(capsys, index, "--token", "short")
    assert "0 to 65535" in refused(capsys, index, "--port", "70000")
    assert "starts with a slash" in refused(capsys, index, "--root-path", "photos")
    assert "no address" in refused(capsys, index, "--host", "a b", "--token", "x" * 16)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in refused(capsys, index, "--port", port)


def test_the_extra_is_named(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("udmsh_pl.commands.serve.find_spec", lambda _: None)
    assert "pip install 'udmsh-pl[serve]'" in refused(capsys, index)


def test_it_serves_until_interrupted(index: Path) -> None:
    script = index.parent / "run_serve.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    options = [index, "--port", "0", "--token"]
    with subprocess.Popen(
        [sys.executable, str(script), *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        port, token = re.search(r"127\.0\.0\.1:(\d+)/#token=(\S+)", line).groups()
        assert Client(int(port), token)("/info").json["pictures"] == 13
        assert Client(int(port))("/info").status == 401
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=20)
    assert problems == ""
    assert process.returncode in (0, 130, -signal.SIGINT)
