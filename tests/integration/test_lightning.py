"""fit, validate, test and predict through the real command line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from udmsh_pl.retrieval import evaluate_codes

from .conftest import Run, assert_same_arrays, logged

CSV = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir")
TUNED = ("--model.finetune", "true")


def checkpoint(folder: Path) -> Path:
    return next(folder.rglob("*.ckpt"))


def test_the_codes_of_predict_are_the_codes_that_test_scored(
    colours: Path, udmsh: Run, tmp_path: Path
) -> None:
    config = colours / "config.yaml"
    assert udmsh("fit", "--config", config, *CSV, "fit") == 0
    weights = checkpoint(tmp_path / "fit")
    assert list((tmp_path / "fit").rglob("structure.png"))
    holds_everything_fitted(weights)
    assert (
        len(logged(tmp_path / "fit", "val/map@all")) == 6
    )  # one an epoch; the sanity check was not scored
    for run in ("one", "two"):
        assert udmsh("test", "--config", config, "--ckpt_path", weights, *CSV, run) == 0
        assert (
            udmsh(
                "predict",
                "--config",
                config,
                "--ckpt_path",
                weights,
                "--trainer.default_root_dir",
                run,
            )
            == 0
        )
    assert_same_arrays(Path("one/codes.npz"), Path("two/codes.npz"))
    with np.load("one/codes.npz", allow_pickle=False) as one:
        assert one["query_codes"].shape == (13, 2)
        assert one["database_names"][3] == "database3.png"
        report = evaluate_codes(
            one["query_codes"],
            one["database_codes"],
            one["query_labels"],
            one["database_labels"],
            int(one["bits"]),
        )
    for run in ("one", "two"):
        assert logged(tmp_path / run, "test/map@all")[0] == pytest.approx(
            report.map[None], abs=1e-6
        )
    assert report.map[None] > 0.5  # four colours: chance is near 0.25
    assert udmsh("validate", "--config", config, "--ckpt_path", weights, *CSV, "val") == 0
    assert logged(tmp_path / "val", "val/map@all")[0] == pytest.approx(
        logged(tmp_path / "fit", "val/map@all")[-1], abs=1e-6
    )


def holds_everything_fitted(path: Path) -> None:
    state = torch.load(path, weights_only=True)["state_dict"]
    assert {"structure.mean", "structure.thresholds", "rotation"} <= set(state)
    assert state["structure.mean"].abs().sum() > 0
    assert not any(
        key.startswith("network") for key in state
    )  # the frozen backbone is named, not copied


@pytest.mark.parametrize(
    "isometry", ["rotation", pytest.param("pointwise", marks=pytest.mark.slow)]
)
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
    assert (
        udmsh("fit", "--config", colours / "config.yaml", *options, "--trainer.max_epochs", 1) == 0
    )


def fine_tuned(colours: Path, udmsh: Run, folder: Path, *model: object) -> Path:
    """Checkpoint of a step of fine-tuning, which has trained the backbone."""
    step = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1)
    slow = ("--model.backbone_learning_rate", "1e-3", "--model.gradient_checkpointing", "true")
    fit = ("fit", "--config", colours / "config.yaml", *model, *TUNED, *slow, *step)
    assert udmsh(*fit, *CSV, folder) == 0
    state = torch.load(checkpoint(folder), weights_only=True)["state_dict"]
    from udmsh_pl.models import build_backbone

    before = build_backbone("tf_efficientnet_lite0").state_dict()
    moved = [
        key
        for key in before
        if "conv_head" in key and not torch.equal(before[key], state[f"network.{key}"])
    ]
    assert moved
    return checkpoint(folder)


def test_fine_tuning_trains_the_backbone(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    model = ("--model", "udmsh_pl.models.UDMSH")
    weights = fine_tuned(colours, udmsh, tmp_path / "fit", *model)
    predict = ("predict", "--config", colours / "config.yaml", *model, *TUNED)
    assert udmsh(*predict, "--ckpt_path", weights) == 0
    with np.load("codes.npz", allow_pickle=False) as codes:
        assert codes["database_codes"].shape == (61, 2)


def test_fine_tuning_of_udmsh_plus_and_a_checkpoint_of_0_1_0_under_its_old_names(
    colours: Path, udmsh: Run, tmp_path: Path
) -> None:
    model = ("--model", "udmsh_pl.models.UDMSHPlus", "--model.dims", 16)
    new = fine_tuned(colours, udmsh, tmp_path / "fit", *model)
    written = torch.load(new, weights_only=True)
    settings, state = written["hyper_parameters"], written["state_dict"]
    assert settings["_class_path"] == "udmsh_pl.models.UDMSHPlus"
    assert (settings["dims"], settings["bits"], settings["dropout"]) == (16, 12, 0.3)
    assert settings["backbone_learning_rate"] == 1e-3
    settings["trunk_learning_rate"] = settings.pop("backbone_learning_rate")
    written["state_dict"] = {
        name.replace("network.", "trunk.", 1): value for name, value in state.items()
    }
    torch.save(written, tmp_path / "old.ckpt")
    predict = ("predict", "--config", colours / "config.yaml", "--trainer.default_root_dir")
    assert udmsh(*predict, "new", "--ckpt_path", new) == 0
    assert udmsh(*predict, "old", "--ckpt_path", tmp_path / "old.ckpt") == 0
    assert_same_arrays(Path("new/codes.npz"), Path("old/codes.npz"))
    with np.load("new/codes.npz", allow_pickle=False) as codes:
        assert codes["database_codes"].shape == (61, 2)


def test_wandb_works_offline(
    colours: Path, udmsh: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is the extra `log`")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = (
        "--trainer.logger",
        "WandbLogger",
        "--trainer.logger.offline",
        "true",
        "--trainer.max_epochs",
        1,
    )
    assert udmsh("fit", "--config", colours / "config.yaml", *options) == 0
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.draws
def test_tensorboard_shows_what_was_found(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = (
        "--trainer.logger",
        "TensorBoardLogger",
        "--trainer.logger.save_dir",
        tmp_path,
        "--trainer.max_epochs",
        2,
    )
    assert udmsh("fit", "--config", colours / "config.yaml", *options) == 0
    [events] = tmp_path.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events), size_guidance={"images": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    assert {"structure", "val/precision_recall", "val/distances", "val/retrieved"} <= set(
        tags["images"]
    )
    assert {"loss/total", "val/map@all", "codes/bit_balance", "similarity/mean"} <= set(
        tags["scalars"]
    )
    assert [image.step for image in accumulator.Images("val/retrieved")] == [3, 6]  # one an epoch
