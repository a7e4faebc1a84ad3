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


UDMSH = (
    "--model.confidence", "true", "--model.batch_norm", "true", "--model.warmup_steps", 2,
)  # fmt: skip
ROTATION = (*UDMSH, "--model.isometry", "rotation")
PLUS = ("--model", "udmsh_pl.models.UDMSHPlus", "--model.dims", 16)  # with dropout
SDC = ("--model", "udmsh_pl.baselines.SDC", "--model.contrastive_weight", 0.5)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(UDMSH, id="udmsh"),
        pytest.param(ROTATION, id="rotation", marks=pytest.mark.slow),
        pytest.param(PLUS, id="udmsh-plus"),
        pytest.param(SDC, id="sdc", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_bit_for_bit(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path, model: tuple[object, ...]
) -> None:
    options = (
        "--config", colours / "config.yaml", "--trainer.max_epochs", 2, "--data.views", 3,
        "--data.cache_dir", tmp_path / "cache", *model,
    )  # fmt: skip
    two = udmsh_process("fit", *options, *ddp(2), *recorder(tmp_path / "two"))
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stderr.count("| 13/13 [") == 1, two.stderr  # extracted once, not once a process
    assert two.stderr.count("| 61/61 [") == 2, two.stderr  # and so were the views
    assert udmsh("fit", *options, *recorder(tmp_path / "one")) == 0
    one, *both = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    for found in both:
        assert found["split"] == one["split"]
        assert len(found["steps"]) == len(one["steps"]) == 6
        for here, whole in zip(found["steps"], one["steps"], strict=True):
            torch.testing.assert_close(here, whole, rtol=0, atol=0)  # rows, loss, gradients
        torch.testing.assert_close(found["weights"], one["weights"], rtol=0, atol=0)
    # each epoch has its own order
    assert one["steps"][0]["rows"].tolist() != one["steps"][3]["rows"].tolist()
    last = one["steps"][-1]["gradients"]
    assert max(float(value.norm()) for value in last.values()) > 1e-6  # what is equal is not zero


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(UDMSH, id="udmsh"),
        pytest.param(PLUS, id="udmsh-plus", marks=pytest.mark.slow),
        pytest.param(SDC[:2], id="sdc", marks=pytest.mark.slow),
    ],
)
def test_two_processes_fine_tune_as_one(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path, model: tuple[object, ...]
) -> None:
    options = (
        "--config", colours / "config.yaml", "--trainer.max_epochs", 1, "--data.views", 3,
        "--trainer.precision", "64-true", "--model.finetune", "true",
        "--trainer.limit_val_batches", 0, "--trainer.limit_train_batches", 2, *model,
    )  # fmt: skip
    two = udmsh_process("fit", *options, *ddp(2), *recorder(tmp_path / "two"))
    assert two.returncode == 0, two.stderr[-2000:]
    assert udmsh("fit", *options, *recorder(tmp_path / "one")) == 0
    one, *halves = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    assert [len(part["steps"]) for part in (one, *halves)] == [2, 2, 2]
    for number, whole in enumerate(one["steps"]):
        parts = [half["steps"][number] for half in halves]
        rows = torch.cat([part["rows"] for part in parts])
        assert sorted(rows.tolist()) == sorted(whole["rows"].tolist())
        for part in parts:
            torch.testing.assert_close(part["loss"], whole["loss"], **EXACT)
            # that of a bias before a batch normalisation is rounding, which Adam divides by its
            # own size: from the second step on the processes have moved apart
            near = {"rtol": 1e-8, "atol": 1e-9} if number else EXACT
            torch.testing.assert_close(part["gradients"], whole["gradients"], **near)
    for half in halves:
        torch.testing.assert_close(half["weights"], one["weights"], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_two_processes_go_on_inside_an_epoch_that_one_began(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path
) -> None:
    fit = (
        "fit", "--config", colours / "config.yaml", "--trainer.max_epochs", 3,
        "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=1",
        "--ckpt_path", "last", "--model.batch_norm", "false",
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
