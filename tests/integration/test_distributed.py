"""Several processes train, encode and score as one does: gloo, through the real command line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from .conftest import Process, Run, assert_same_arrays, logged, recorder
from .test_killed import killed

EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64: only the order of sums differs


def ddp(processes: int) -> tuple[object, ...]:
    return ("--trainer.devices", processes, "--trainer.strategy", "ddp")


@pytest.mark.parametrize("isometry", ["pairwise", pytest.param("rotation", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path, isometry: str
) -> None:
    options = (
        "--config", colours / "config.yaml", "--trainer.max_epochs", 2,
        "--trainer.precision", "64-true", "--data.views", 3, "--data.cache_dir", tmp_path / "cache",
        "--model.isometry", isometry, "--model.confidence", "true", "--model.balance_weight", 0.1,
        "--model.decorrelation_weight", 0.1, "--model.warmup_steps", 2,
    )  # fmt: skip
    two = udmsh_process("fit", *options, *ddp(2), *recorder(tmp_path / "two"))
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stderr.count("| 13/13 [") == 1, two.stderr  # extracted once, not once a process
    assert two.stderr.count("| 61/61 [") == 2, two.stderr  # and so were the views
    assert udmsh("fit", *options, *recorder(tmp_path / "one")) == 0
    one, first, second = (
        torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    assert one["split"] == first["split"] == second["split"]
    assert len(one["steps"]) == len(first["steps"]) == len(second["steps"]) == 6
    for whole, *halves in zip(one["steps"], first["steps"], second["steps"], strict=True):
        rows = torch.cat([half["rows"] for half in halves])
        assert sorted(rows.tolist()) == sorted(whole["rows"].tolist())
        for half in halves:
            torch.testing.assert_close(half["loss"], whole["loss"], **EXACT)
            torch.testing.assert_close(half["gradients"], whole["gradients"], **EXACT)
    # each epoch has its own order
    assert one["steps"][0]["rows"].tolist() != one["steps"][3]["rows"].tolist()
    assert torch.equal(first["weights"]["rotation"], second["weights"]["rotation"])
    # so small a set leaves many rotations equally good, and rounding decides
    for found in (one, first, second):
        found["weights"].pop("rotation")
    assert first["weights"].keys() == one["weights"].keys()
    for found in (first, second):
        torch.testing.assert_close(found["weights"], one["weights"], **EXACT)
    for norm in (value.norm() for value in one["steps"][-1]["gradients"].values()):
        assert norm > 1e-6  # what is equal is not zero


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("udmsh_pl.models.UDMSHPlus", ("--model.dropout", 0, "--model.dims", 16)),
        pytest.param(
            "udmsh_pl.baselines.SDC",
            ("--model.contrastive_weight", 0.5),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["udmsh-plus", "sdc"],
)
def test_what_is_normalised_over_a_batch_is_over_the_global_one(
    colours: Path,
    udmsh: Run,
    udmsh_process: Process,
    tmp_path: Path,
    model: str,
    own: tuple[object, ...],
) -> None:
    options = (
        "--config", colours / "config.yaml", "--trainer.max_epochs", 1, "--trainer.precision",
        "64-true", "--model", model, *own, "--trainer.limit_val_batches", 0,
    )  # fmt: skip
    two = udmsh_process("fit", *options, *ddp(2), *recorder(tmp_path / "two"))
    assert two.returncode == 0, two.stderr[-2000:]
    assert udmsh("fit", *options, *recorder(tmp_path / "one")) == 0
    one, *halves = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    assert [len(part["steps"]) for part in (one, *halves)] == [3, 3, 3]
    for part in halves:
        for whole, half in zip(one["steps"], part["steps"], strict=True):
            torch.testing.assert_close(half["loss"], whole["loss"], rtol=1e-6, atol=1e-9)
        # running means and variances too
        torch.testing.assert_close(part["weights"], one["weights"], rtol=1e-6, atol=1e-9)
    assert any("running_var" in name for name in one["weights"])


@pytest.mark.slow
def test_two_processes_go_on_inside_an_epoch_that_one_began(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path
) -> None:
    fit = (
        "fit", "--config", colours / "config.yaml", "--trainer.max_epochs", 3,
        "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=1",
        "--ckpt_path", "last",
    )  # fmt: skip
    assert udmsh(*fit, *recorder(tmp_path / "one"), "--trainer.default_root_dir", "one") == 0
    killed(
        udmsh_process,
        "udmsh_pl.models.udmsh.multilevel_pairwise_loss",
        6,
        *fit,
        "--trainer.default_root_dir",
        "two",
    )
    resumed = (*fit, *ddp(2), *recorder(tmp_path / "two"))
    done = udmsh_process(*resumed, "--trainer.default_root_dir", "two")
    assert done.returncode == 0, done.stderr[-2000:]
    one, *parts = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    for part in parts:
        assert len(part["steps"]) == 4  # of nine; the kill was in the sixth
        # float32, since Lightning rounds float64 weights when it loads them
        torch.testing.assert_close(part["weights"], one["weights"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_score_and_encode_as_one(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path, processes: int
) -> None:
    csv = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir")
    config = colours / "config.yaml"
    assert udmsh("fit", "--config", config, *csv, "fit", "--trainer.max_epochs", 1) == 0
    weights = next((tmp_path / "fit").rglob("*.ckpt"))
    scored = ("test", "--config", config, "--ckpt_path", weights, *csv)
    encoded = ("predict", "--config", config, "--ckpt_path", weights, "--trainer.default_root_dir")
    assert udmsh(*scored, "one") == udmsh(*encoded, "one") == 0
    for arguments in (scored, encoded):
        done = udmsh_process(*arguments, "many", *ddp(processes))
        assert done.returncode == 0, done.stderr[-2000:]
    assert len(logged(tmp_path / "one", "test/map@all")) == 1
    assert logged(tmp_path / "one", "test/") == logged(tmp_path / "many", "test/")
    # 13 and 61 rows are uneven for 2 and 3 processes: the repeated rows are dropped
    assert_same_arrays(tmp_path / "one/codes.npz", tmp_path / "many/codes.npz")
    with np.load(tmp_path / "many/codes.npz", allow_pickle=False) as codes:
        assert (len(codes["query_codes"]), len(codes["database_codes"])) == (13, 61)
