"""A run directory says what it was run with: configuration, versions, commit, split, results."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from udmsh_pl.reports.environment import git_commit
from udmsh_pl.reports.table_rows import read_results

from .conftest import Run, logged, recorder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_commit_of_a_repository_and_of_none(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "absent") is None
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").touch()
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit}+changes"


@pytest.mark.parametrize("logger", ["CSVLogger", "none"])
def test_a_fit_says_what_it_ran_on(colours: Path, udmsh: Run, tmp_path: Path, logger: str) -> None:
    csv = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "run")
    none = ("--trainer.logger", "false", "--trainer.default_root_dir", "run")
    options = csv if logger == "CSVLogger" else none
    assert (
        udmsh("fit", "--config", colours / "config.yaml", "--trainer.max_epochs", 1, *options) == 0
    )
    (file,) = (tmp_path / "run").rglob("environment.json")
    found = json.loads(file.read_text())
    for package in ("torch", "lightning", "numpy", "faiss-cpu"):
        assert found["versions"][package] == version(package)
    assert {"python", "udmsh_pl"} <= set(found["versions"])
    assert found["working_directory_commit"] is None
    assert "package_commit" in found
    config = yaml.safe_load((file.parent / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1
    assert logger == "none" or len(logged(file.parent, "val/map@all")) == 1

    plan = ("--bits", 8, "--seeds", 0, "--methods", "itq", "--out", "plan")
    assert udmsh("reproduce", colours / "config.yaml", *plan) == 0
    assert (tmp_path / "plan/config.yaml").is_file()
    planned = json.loads((tmp_path / "plan/environment.json").read_text())
    assert {**planned, "command": 0} == {**found, "command": 0}
    assert {result.split_sha256 for result in read_results(tmp_path / "plan/results.csv")} == {
        found["split_sha256"]
    }


def test_last_is_the_newest_checkpoint_of_this_run(
    colours: Path, udmsh: Run, tmp_path: Path
) -> None:
    fit = (
        "fit",
        "--config",
        colours / "config.yaml",
        "--ckpt_path",
        "last",
        "--trainer.logger",
        "CSVLogger",
    )
    fit = (*fit, "--trainer.limit_train_batches", 1, "--trainer.logger.save_dir")
    assert udmsh(*fit, "other", "--trainer.max_epochs", 3) == 0  # another run is never resumed
    for epochs in (1, 2, 2):
        assert udmsh(*fit, "run", "--trainer.max_epochs", epochs) == 0
    names = sorted(
        str(path.relative_to(tmp_path / "run/lightning_logs"))
        for path in (tmp_path / "run").rglob("*.ckpt")
    )
    assert names == [
        "version_0/checkpoints/epoch=0-step=1.ckpt",
        "version_1/checkpoints/epoch=1-step=2.ckpt",
    ]
    assert len(logged(tmp_path / "run", "val/map@all")) == 2

    own = (
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath=kept",
        "--trainer.logger",
        "false",
    )
    for epochs, steps in ((1, 3), (2, 3)):
        fit = (
            "fit",
            "--config",
            colours / "config.yaml",
            *own,
            "--ckpt_path",
            "last",
            *recorder(tmp_path / "recorded"),
        )
        assert udmsh(*fit, "--trainer.max_epochs", epochs) == 0
        assert len(torch.load(tmp_path / "recorded/0.pt")["steps"]) == steps
