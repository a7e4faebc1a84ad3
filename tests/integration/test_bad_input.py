"""A mistake of the user: one line that names the mend, status 2, and nothing half written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from udmsh_pl.features.store import open_features

from .conftest import Run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.bits", "0"), ("code length", "--model.bits")),
        (("--model.backbone", "resnet19"), ("resnet19", "resnet18")),
        (("--model.weights", "none.pth"), ("none.pth", "does not exist", "--model.weights")),
        (("--data.root", "nowhere"), ("nowhere", "--data.root")),
        (("--data.query", "none.txt"), ("none.txt",)),
        (("--data.batchsize", "4"), ("batchsize",)),
        (("--model.levels", "soft"), ("levels",)),
        (("--config", "none.yaml"), ("none.yaml",)),
    ],
)
def test_one_line_names_the_mend(
    colours: Path,
    udmsh: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, str],
    words: tuple[str, ...],
) -> None:
    assert (
        udmsh("fit", "--config", colours / "config.yaml", *options, "--data.cache_dir", "cache")
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("udmsh: error: ")
    for word in words:
        assert word in error
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("query0.png 1 0 0 2", ("database.txt:1",)),
        ("query0.png 1 0 0", ("database.txt",)),
        ("query0.png 1 0 0 0", ("1 of 13 query images", "query0.png")),
        ("gone.png 1 0 0 0", ("1 of 62", "--data.allow_missing")),
    ],
)
def test_bad_lists(
    colours: Path,
    udmsh: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    line: str,
    words: tuple[str, ...],
) -> None:
    lines = (colours / "database.txt").read_text()
    (tmp_path / "database.txt").write_text(f"{line}\n{lines}")
    assert udmsh("fit", "--config", colours / "config.yaml", "--data.database", "database.txt") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in error


def test_an_unreadable_image_is_named(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(colours, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "copy" / "database7.png").write_bytes(b"not an image")
    options = ("--data.root", "copy", "--data.cache_dir", "cache")
    assert udmsh("fit", "--config", colours / "config.yaml", *options) == 2
    assert "database7.png" in capsys.readouterr().err
    stores = [
        path for path in (tmp_path / "cache").iterdir() if path.suffix not in (".part", ".lock")
    ]
    assert [len(open_features(path)["global_feature"]) for path in stores] == [
        13
    ]  # the queries, which were whole


def test_no_command_and_a_wrong_one(udmsh: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert udmsh() == 0
    assert "reproduce" in capsys.readouterr().out
    assert udmsh("train") == 2
    assert "fit" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "from udmsh_pl import cli; cli._dispatch = lambda _: print('x' * 10**6) or 0; "
        "cli.main(['table'])"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
