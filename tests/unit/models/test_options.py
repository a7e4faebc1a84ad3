"""Options of models and data modules: annotated attributes, seen by help, type checker and
checkpoints.
"""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Trainer

import udmsh_pl.baselines
import udmsh_pl.models
from udmsh_pl.data import NUSWIDE, ListFiles
from udmsh_pl.errors import InputError
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus

TINY: dict[str, Any] = {"backbone": "resnet10t", "weights": "random", "hidden": 8}
EXPORTED = [*vars(udmsh_pl.models).values(), *vars(udmsh_pl.baselines).values()]
METHODS = sorted(
    {
        one
        for one in EXPORTED
        if isinstance(one, type) and issubclass(one, HashingModule) and one is not HashingModule
    },
    key=lambda method: method.__name__,
)


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_type_default_and_sentence_of_each_option(
    method: type[HashingModule], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(HashingModule, "model")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--model.help={method.__module__}.{method.__name__}"])
    shown = " ".join(capsys.readouterr().out.split())
    options = set(inspect.signature(method).parameters)
    assert {"bits", "branches", "learning_rate"} <= options
    for name in options:
        part = re.search(rf".*--model\.{name} \S+ (.*?)\(type: .*?, default: ", shown)
        assert part is not None, name
        assert len(part[1].split()) >= 1, name
        assert "--model" not in part[1], name


def test_a_class_attribute_without_effect_is_refused() -> None:
    class Mine(UDMSH):
        branches = "global"

    class Undecorated(UDMSH):
        levels: Any = "hard"

    class Other(NUSWIDE):
        protocol = "81-concepts"

    for kind, name in ((Mine, "branches"), (Undecorated, "levels")):
        with pytest.raises(InputError, match=rf"{kind.__name__}: the class attribute '{name}'"):
            kind(**TINY)
    with pytest.raises(InputError, match="'protocol'"):
        Other()


@dataclass(kw_only=True, eq=False, repr=False)
class Gamma(UDMSH):
    """A method from outside.

    Args:
        gamma: own
        levels: with another default
    """

    gamma: float = 1.0
    levels: Any = "hard"


def test_own_options_and_defaults_of_a_subclass() -> None:
    model = Gamma(gamma=2.0, bits=12, **TINY)
    assert (model.gamma, model.bits, model.structure.levels) == (2.0, 12, "hard")
    assert dict(model.hparams)["gamma"] == 2.0
    assert Gamma(levels="cosine", **TINY).structure.levels == "cosine"
    with pytest.raises(TypeError, match="gama"):
        Gamma(gama=1.0, **TINY)  # type: ignore[call-arg]


def test_a_subclass_with_a_constructor_of_its_own() -> None:
    class Alone(HashingModule):
        def __init__(self, *, bits: int = 8, margin: float = 0.5) -> None:
            super().__init__(bits=bits, **TINY)
            self.margin = margin

        def objective(self, batch: Any) -> Any:
            return {}

    assert (Alone(margin=0.7).margin, Alone().bits) == (0.7, 8)


@pytest.mark.parametrize("method", METHODS)
def test_hyperparameters_are_all_options(method: type[HashingModule]) -> None:
    model = method(bits=12, **TINY)
    assert set(model.hparams) == set(inspect.signature(method).parameters)
    assert model.hparams["bits"] == 12
    again = method(**model.hparams)
    assert again.hparams == model.hparams


def test_the_encoder_of_udmsh_plus_gets_its_own_options() -> None:
    model = UDMSHPlus(dims=16, dropout=0.1, **TINY)
    assert model.encoder.fusion.dims == 16
    assert model.encoder.head[3].p == 0.1


def test_mistyped_options_of_data_are_named() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        ListFiles(root=Path(), database=Path("x"), batchsize=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), None])
def test_a_number_outside_its_range_is_one_line(value: Any) -> None:
    with pytest.raises(
        InputError, match=r"near_share is .*; give --model.near_share a number from 0 to 1$"
    ):
        UDMSHPlus(near_share=value, **TINY)
    with pytest.raises(InputError, match="at least 0, or null"):
        UDMSHPlus(least_weight=-1, **TINY)
    UDMSHPlus(near_share=1, least_weight=None, diffusion_time=1e9, **TINY)


def test_a_tuned_backbone_of_0_1_0_is_loaded(tmp_path: Path) -> None:
    model = UDMSH(finetune=True, **TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    trainer = Trainer(
        accelerator="cpu", max_epochs=0, logger=False, default_root_dir=tmp_path, barebones=True
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    old = {name.replace("network.", "trunk.", 1): value for name, value in state.items()}
    assert old.keys() != state.keys()
    torch.save({**checkpoint, "state_dict": old}, tmp_path / "old.ckpt")
    found = UDMSH.load_from_checkpoint(tmp_path / "old.ckpt", map_location="cpu")
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=0, atol=0)
