"""fit, validate, test and predict through the real command line, in one process and in two."""

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from udmsh_pl.retrieval import evaluate_codes

from .conftest import Run

Process = Callable[..., subprocess.CompletedProcess[str]]
CSV = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir")


def logged(folder: Path, name: str) -> list[float]:
    files = sorted(folder.rglob("metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.open())]
    return [float(value) for row in rows for key, value in row.items() if key.startswith(name) and value]


def checkpoint(folder: Path) -> Path:
    return next(folder.rglob("*.ckpt"))


def test_the_codes_of_predict_are_the_codes_that_test_scored(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    config = colours / "config.yaml"
    assert udmsh("fit", "--config", config, *CSV, "fit") == 0
    weights = checkpoint(tmp_path / "fit")
    assert len(logged(tmp_path / "fit", "val/map@all")) == 6  # one an epoch; the sanity check was not scored
    for run in ("one", "two"):
        assert udmsh("test", "--config", config, "--ckpt_path", weights, *CSV, run) == 0
        assert udmsh("predict", "--config", config, "--ckpt_path", weights, "--trainer.default_root_dir", run) == 0
    with np.load("one/codes.npz", allow_pickle=False) as one, np.load("two/codes.npz", allow_pickle=False) as two:
        assert one["query_codes"].shape == (13, 2)
        assert one["database_names"][3] == "database3.png"
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])
        report = evaluate_codes(
            one["query_codes"], one["database_codes"], one["query_labels"], one["database_labels"], int(one["bits"])
        )
    for run in ("one", "two"):
        assert logged(tmp_path / run, "test/map@all")[0] == pytest.approx(report.map[None], abs=1e-6)
    assert report.map[None] > 0.5  # four colours: chance is near 0.25
    assert udmsh("validate", "--config", config, "--ckpt_path", weights, *CSV, "val") == 0
    assert logged(tmp_path / "val", "val/map@all")[0] == pytest.approx(logged(tmp_path / "fit", "val/map@all")[-1], abs=1e-6)


def test_a_checkpoint_holds_everything_fitted(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    assert udmsh("fit", "--config", colours / "config.yaml", *CSV, "fit") == 0
    state = torch.load(checkpoint(tmp_path / "fit"), weights_only=True)["state_dict"]
    assert {"structure.mean", "structure.thresholds", "rotation"} <= set(state)
    assert state["structure.mean"].abs().sum() > 0
    assert not any(key.startswith("trunk") for key in state)  # the frozen trunk is named, not copied
    assert list((tmp_path / "fit").rglob("structure.png"))


@pytest.mark.parametrize("isometry", ["pointwise", "rotation"])
def test_other_readings_train(colours: Path, udmsh: Run, isometry: str) -> None:
    options = (
        "--model.isometry",
        isometry,
        "--model.confidence",
        "true",
        "--model.levels",
        "hard",
        "--model.teacher",
        "both",
    )
    assert udmsh("fit", "--config", colours / "config.yaml", *options, "--trainer.max_epochs", 1) == 0


def test_fine_tuning_trains_the_trunk(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    options = (
        "--model.finetune",
        "true",
        "--model.trunk_learning_rate",
        "1e-3",
        "--model.gradient_checkpointing",
        "true",
    )
    assert udmsh("fit", "--config", colours / "config.yaml", *options, *CSV, "fit", "--trainer.max_epochs", 1) == 0
    state = torch.load(checkpoint(tmp_path / "fit"), weights_only=True)["state_dict"]
    from udmsh_pl.models import build_trunk

    before = build_trunk("tf_efficientnet_lite0").state_dict()
    moved = [key for key in before if "conv_head" in key and not torch.equal(before[key], state[f"trunk.{key}"])]
    assert moved
    weights = checkpoint(tmp_path / "fit")
    assert udmsh("predict", "--config", colours / "config.yaml", *options[:2], "--ckpt_path", weights) == 0
    with np.load("codes.npz", allow_pickle=False) as codes:
        assert codes["database_codes"].shape == (61, 2)


def test_wandb_works_offline(colours: Path, udmsh: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = ("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.max_epochs", 1)
    assert udmsh("fit", "--config", colours / "config.yaml", *options) == 0
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_two_processes_score_and_encode_as_one(colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path) -> None:
    config = colours / "config.yaml"
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    done = udmsh_process("fit", "--config", config, *ddp, *CSV, "fit", "--data.batch_size", 8)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = checkpoint(tmp_path / "fit")
    for run, flags in (("one", ()), ("two", ddp)):
        done = udmsh_process("test", "--config", config, "--ckpt_path", weights, *CSV, run, *flags)
        assert done.returncode == 0, done.stderr[-2000:]
        done = udmsh_process("predict", "--config", config, "--ckpt_path", weights, "--trainer.default_root_dir", run, *flags)
        assert done.returncode == 0, done.stderr[-2000:]
    assert logged(tmp_path / "one", "test/map@all")[0] == logged(tmp_path / "two", "test/map@all")[0]
    with (
        np.load(tmp_path / "one/codes.npz", allow_pickle=False) as one,
        np.load(tmp_path / "two/codes.npz", allow_pickle=False) as two,
    ):
        assert len(two["database_codes"]) == 61  # 61 rows on two processes: the repeated row is dropped
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])
