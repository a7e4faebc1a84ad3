"""A mistake of the user: one line that names the mend, status 2, and nothing half written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.reports.table_rows import read_results

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


def test_unreadable_images_are_left_out_with_a_list_or_refused(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(colours, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    for name in ("database7.png", "query3.png"):
        (tmp_path / "copy" / name).write_bytes(b"not an image")
    config = ("--config", colours / "config.yaml", "--data.root", "copy", "--trainer.max_epochs", 1)
    config = (*config, "--data.cache_dir", "cache", "--trainer.default_root_dir", "run")
    assert udmsh("fit", *config, "--data.strict", "true") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 picture cannot be read: query3.png (" in error
    assert "--data.strict false" in error

    assert udmsh("fit", *config) == 0
    told = capsys.readouterr().out
    assert "protocol lists less 1 query, 1 train, 1 database images: 12 query, 60 train" in told
    assert "2 left out: 2 it is none of JPEG" in told
    [skipped] = (tmp_path / "run").rglob("skipped.csv")
    lines = skipped.read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["name", "query3.png", "database7.png"]
    [checkpoint] = (tmp_path / "run").rglob("*.ckpt")
    assert udmsh("predict", *config, "--ckpt_path", checkpoint) == 0
    with np.load(tmp_path / "run" / "codes.npz") as codes:
        assert len(codes["query_codes"]) == len(codes["query_names"]) == 12
        assert "database7.png" not in codes["database_names"]
        assert len(codes["database_codes"]) == 60

    capsys.readouterr()
    plan = ("reproduce", *config[1:6], "--data.cache_dir", "cache", "--out", "plan")
    assert udmsh(*plan, "--methods", "lsh", "--bits", 8, "--seeds", 0) == 0
    name = "lists less 1 query, 1 train, 1 database images"
    assert capsys.readouterr().out.count(f"protocol {name}") == 2  # before the first cell; table
    rows = read_results(tmp_path / "plan" / "results.csv")
    assert {row.protocol for row in rows} == {name}
    assert name in (tmp_path / "plan" / "table.md").read_text()
    assert (tmp_path / "plan" / "skipped.csv").read_text() == skipped.read_text()


def test_the_ordinary_path_of_a_folder_of_albums(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(30):
        album = tmp_path / "pictures" / ("rome", "alps/winter", ".")[number % 3]
        album.mkdir(parents=True, exist_ok=True)
        shutil.copy(colours / f"database{number}.png", album)
    (tmp_path / "pictures/rome/cut.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "pictures/film.mov").write_bytes(b"film")
    (tmp_path / "pictures/sea.txt").write_text("no picture")
    data = ("--data", "ImageFolders", "--data.root", "pictures", "--data.labels", "none")
    data = (*data, "--data.cache_dir", "cache", "--data.image_size", 32, "--data.batch_size", 8)
    quiet = ("--trainer.max_epochs", 1, "--trainer.default_root_dir", "run")
    assert udmsh("fit", "--model", "UDMSHPlus", "--model.dims", 16, *data, *quiet) == 0
    told = capsys.readouterr().out
    assert "less 1 train, 1 database images: 30 train, 30 database images" in told
    assert "3 left out" in told
    [checkpoint] = (tmp_path / "run").rglob("*.ckpt")
    assert udmsh("predict", "--model", "UDMSHPlus", *data, *quiet, "--ckpt_path", checkpoint) == 0
    with np.load(tmp_path / "run" / "codes.npz") as codes:
        assert codes["database_codes"].shape == (30, 8)
        assert {"database0.png", "alps/winter/database1.png"} & set(codes["database_names"])
    for path in (tmp_path / "run").rglob("skipped.csv"):
        text = path.read_text()
        assert all(name in text for name in ("rome/cut.jpg", "film.mov,a video", "sea.txt"))


@pytest.mark.slow
def test_unreadable_images_are_left_out_of_fine_tuning(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(colours, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    for name in ("database7.png", "query3.png"):
        (tmp_path / "copy" / name).write_bytes(b"not an image")
    config = ("--config", colours / "config.yaml", "--data.root", "copy", "--trainer.max_epochs", 1)
    config = (*config, "--data.cache_dir", "cache", "--trainer.default_root_dir", "run")
    tuned = ("--model.finetune", "true", "--trainer.limit_train_batches", 1)
    assert udmsh("fit", *config, *tuned, "--data.views", 0) == 0
    assert "1 query, 1 train, 1 database images: 12 query, 60" in capsys.readouterr().out


def test_no_command_and_a_wrong_one(udmsh: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert udmsh() == 0
    assert "reproduce" in capsys.readouterr().out
    assert udmsh("train") == 2
    assert "fit" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["lists/query.txt", "lists/query.txt/x", "n" * 300])
def test_a_folder_that_cannot_be_one_is_a_line(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/query.txt").touch()
    plan = ("reproduce", colours / "config.yaml", "--methods", "lsh", "--bits", 8, "--seeds", 0)
    assert udmsh(*plan, "--out", out) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"udmsh: error: {out}")
    assert line.endswith("give another path")


def test_a_nul_is_a_line(udmsh: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert udmsh("index", "a\0b", "--out", "x") == 2
    assert "NUL" in capsys.readouterr().err


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
