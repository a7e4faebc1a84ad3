"""A logger that needs a login says so before anything is trained."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from udmsh_pl.errors import InputError
from udmsh_pl.runs.lightning_cli import check_login


def logger(**options: object) -> Namespace:
    return Namespace(
        class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(**options)
    )


def test_wandb_without_a_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(InputError, match=r"run `wandb login`, or set WANDB_MODE=offline") as said:
        check_login(logger(offline=False))
    assert "\n" not in str(said.value)
    check_login(logger(offline=True))
    check_login(Namespace(class_path="lightning.pytorch.loggers.CSVLogger"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_login(logger(offline=False))
