"""Names of version 0.1.0: options, hyper-parameters and the state of a fine-tuned backbone."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from udmsh_pl.models import UDMSH
from udmsh_pl.models.renamed import RENAMED, with_new_names

TINY: dict[str, Any] = {"backbone": "resnet10t", "weights": "random", "hidden": 8, "bits": 8}


def test_an_old_name_warns_with_the_new_one_and_wins() -> None:
    assert RENAMED == {"trunk_learning_rate": "backbone_learning_rate"}
    with pytest.warns(FutureWarning, match="now called backbone_learning_rate"):
        found = with_new_names({"trunk_learning_rate": 0.5, "backbone_learning_rate": 0.1, "b": 1})
    assert found == {"backbone_learning_rate": 0.5, "b": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_new_names({"trunk_learning_rate": None, "b": 1}) == {"b": 1}


def test_the_constructor_takes_the_old_name_for_one_release() -> None:
    with pytest.warns(FutureWarning, match="backbone_learning_rate"):
        model = UDMSH(trunk_learning_rate=0.5, **TINY)
    assert model.backbone_learning_rate == model.hparams["backbone_learning_rate"] == 0.5
    assert "trunk_learning_rate" not in model.hparams


def test_a_checkpoint_of_0_1_0_is_loaded(tmp_path: Path) -> None:
    model = UDMSH(finetune=True, backbone_learning_rate=0.5, **TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    trainer = Trainer(
        accelerator="cpu", max_epochs=0, logger=False, default_root_dir=tmp_path, barebones=True
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    state, settings = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    old = {name.replace("network.", "trunk.", 1): value for name, value in state.items()}
    assert old.keys() != state.keys()
    settings["trunk_learning_rate"] = settings.pop("backbone_learning_rate")
    torch.save({**checkpoint, "state_dict": old}, tmp_path / "old.ckpt")
    with pytest.warns(FutureWarning, match="backbone_learning_rate"):
        found = UDMSH.load_from_checkpoint(tmp_path / "old.ckpt", map_location="cpu")
    assert found.backbone_learning_rate == 0.5
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=0, atol=0)
