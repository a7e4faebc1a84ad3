"""What a new user mistypes or lacks is one line; runs leave nothing where the next one writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from .conftest import Run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "UDMSHH"), ("--model UDMSHH", "did you mean UDMSH?")),
        (("--data=CIFAR1",), ("--data CIFAR1", "did you mean CIFAR10?")),
        (("--model", "mine.Mne"), ("mine", "Mne")),
        (("--config", "sampel"), ("did you mean sample?",)),
    ],
)
def test_a_wrong_name_is_one_line(
    udmsh: Run, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    Path("mine.py").write_text("from udmsh_pl.models import UDMSH\nclass Mine(UDMSH): pass\n")
    assert udmsh("fit", "--config", "sample", *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("kind", ["model", "data"])
def test_options_of_no_class_are_one_line(
    udmsh: Run, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options = {"model": ("--model.hidden", 8), "data": ("--data.num_workers", 0)}
    other = {"model": ("--data", "FashionSample"), "data": ("--model", "UDMSH")}
    assert udmsh("fit", *other[kind], *options[kind]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{kind}: " in line or f"fit.{kind}" in line, line
    base = {"model": "udmsh_pl.models.HashingModule", "data": "udmsh_pl.RetrievalDataModule"}
    assert udmsh("fit", *other[kind], f"--{kind}.class_path", base[kind]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"give --{kind} NAME" in line, line


def test_a_class_in_the_current_folder_is_trained_and_read_back(colours: Path, udmsh: Run) -> None:
    Path("here_mine.py").write_text("from udmsh_pl.models import UDMSH\nclass Mine(UDMSH): pass\n")
    quick = ("--config", colours / "config.yaml", "--trainer.max_epochs", 1)
    mine = ("--model", "here_mine.Mine", "--trainer.logger", "CSVLogger")
    mine = (*mine, "--trainer.logger.save_dir", "logs")
    assert udmsh("fit", *quick, *mine) == 0
    [checkpoint] = Path("logs").rglob("*.ckpt")
    assert udmsh("predict", *quick, "--model", "here_mine.Mine", "--ckpt_path", checkpoint) == 0
    assert Path("codes.npz").is_file()


def test_what_the_last_epochs_learned_is_saved(colours: Path, udmsh: Run) -> None:
    seldom = ("--trainer.check_val_every_n_epoch", 2, "--trainer.default_root_dir", "run")
    quick = ("--config", colours / "config.yaml", "--trainer.logger", "false")
    assert udmsh("fit", *quick, *seldom, "--trainer.max_epochs", 3) == 0
    [checkpoint] = Path("run").rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 2  # of 0, 1, 2
    none = ("--trainer.enable_checkpointing", "false", "--trainer.default_root_dir", "none")
    assert udmsh("fit", *quick, *none, "--trainer.max_epochs", 1) == 0
    assert not list(Path("none").rglob("*.ckpt"))


def test_a_checkpoint_alone_knows_its_class(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"root": "", "query": "query.txt", "database": "database.txt", "cache_dir": "cache"}
    data = ["--data", "ListFiles", "--data.image_size", 32, "--data.extractor", "torch"]
    for name, place in where.items():
        data += [f"--data.{name}", colours / place]
    quick = (*data, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", "run")
    assert udmsh("fit", "--model", "ITQ", *quick) == 0
    [checkpoint] = Path("run").rglob("*.ckpt")
    assert udmsh("predict", "--ckpt_path", checkpoint, *quick) == 0
    assert Path("run/codes.npz").is_file()
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["_class_path"] = "os.system"
    torch.save(content, "foreign.ckpt")
    for file, words in (
        ("foreign.ckpt", "names the class os.system, which is not ours"),
        ("nope.ckpt", "nope.ckpt does not exist"),
    ):
        assert udmsh("predict", f"--ckpt_path={file}", *quick) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_absent_logger_names_its_extra(
    colours: Path,
    udmsh: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "lightning.pytorch.loggers.wandb"
    monkeypatch.setattr(f"{module}._WANDB_AVAILABLE", False)
    logger = ("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true")
    assert udmsh("fit", "--config", colours / "config.yaml", *logger) == 2
    assert "pip install 'udmsh-pl[log]'" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
def test_two_wandb_runs_share_no_file(
    colours: Path, udmsh: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="the extra log is not installed")
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    for bits in (8, 12):
        logger = {
            "class_path": "WandbLogger",
            "init_args": {"project": "first-steps", "offline": True, "save_dir": str(tmp_path)},
        }
        options = ("--model.bits", bits, "--trainer.max_epochs", 1)
        asked = ("--config", colours / "config.yaml", *options)
        assert udmsh("fit", *asked, "--trainer.logger", json.dumps(logger)) == 0
        wandb.finish()
    for name in ("config.yaml", "environment.json", "structure.png"):
        assert not Path(name).exists()
        assert len(list(Path("first-steps").glob(f"*/{name}"))) == 2
    configs = [
        yaml.safe_load(path.read_text()) for path in Path("first-steps").glob("*/config.yaml")
    ]
    assert {config["model"]["init_args"]["bits"] for config in configs} == {8, 12}


def test_codes_of_other_images_are_not_overwritten(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("predict", "--config", colours / "config.yaml", "--untrained", "true")
    assert udmsh(*asked) == 0
    assert udmsh(*asked, "--seed_everything", 2) == 0  # the same images again
    before = Path("codes.npz").read_bytes()
    lines = (colours / "database.txt").read_text().splitlines()
    Path("fewer.txt").write_text("\n".join(lines[:40]) + "\n")
    capsys.readouterr()
    fewer = ("--data.database", Path("fewer.txt").absolute())
    assert udmsh(*asked, *fewer) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "codes.npz holds codes of other images" in line
    assert "--trainer.default_root_dir" in line
    assert Path("codes.npz").read_bytes() == before
    assert udmsh(*asked, *fewer, "--trainer.default_root_dir", "other") == 0
    with np.load("other/codes.npz", allow_pickle=False) as codes:
        assert len(codes["database_codes"]) == 40
