"""Shallow methods as models: what is in the file is what was fitted, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from udmsh_pl.baselines.shallow import (
    METHODS,
    Shallow,
    ShallowEncoder,
    ShallowSettings,
    fit_shallow,
)
from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import pack_codes
from udmsh_pl.runs.lightning_cli import SHALLOW, long_form
from udmsh_pl.search.checkpoint import read_checkpoint
from udmsh_pl.search.encoder import HashEncoder

FEATURES = np.random.default_rng(0).standard_normal((200, 24)).astype(np.float32)
ARRAYS = {"global_feature": FEATURES.astype(np.float16)}
TINY = {"backbone": "resnet10t", "weights": "random"}


def wide() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {"global_feature": generator.standard_normal((90, 512)).astype(np.float16)}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_model_learned_survives_its_file(name: str) -> None:
    settings = ShallowSettings(name, 8, 3)
    method = METHODS[name](8, 3)
    method.fit(ARRAYS["global_feature"].astype(np.float32))
    encoder = ShallowEncoder(settings)
    assert encoder.state_dict()["_extra_state"] == {}
    encoder.set_extra_state(fit_shallow(ARRAYS, settings))
    again = ShallowEncoder(settings)
    again.load_state_dict(encoder.state_dict())
    expected = method.project(FEATURES)
    for one in (encoder, again):
        found = one.logits(torch.from_numpy(FEATURES))
        np.testing.assert_array_equal(found.numpy(), expected)
    assert found.dtype == torch.float32
    assert set(method.learned) <= set(vars(method))


def test_a_file_sets_what_the_method_learns_and_nothing_else() -> None:
    encoder = ShallowEncoder(ShallowSettings("ITQ", 8, 0))
    with pytest.raises(InputError, match=r"ITQ has learned mean, directions, the file holds pro"):
        encoder.set_extra_state({"project": torch.zeros(1)})
    assert callable(encoder.method.project)


@pytest.mark.parametrize("name", ["ITQ", "PCAH", "LSH"])
def test_linear_ones_are_encoders_for_search(name: str, tmp_path: Path) -> None:
    model = Shallow(bits=12, method=name, seed=1, **TINY)
    model.load_teacher(fit_shallow(wide(), model.settings))
    trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    network, spec = read_checkpoint(tmp_path / "a.ckpt")
    assert (spec.method, spec.bits, spec.dims) == ("LinearEncoder", 12, 0)
    feature = torch.from_numpy(wide()["global_feature"].astype(np.float32))
    [codes] = network.head(feature, torch.zeros(90, 512, 2, 2))
    expected = pack_codes(model.encoder.logits(feature).numpy())
    np.testing.assert_array_equal(codes.numpy(), expected)


def test_others_are_not(tmp_path: Path) -> None:
    model = Shallow(bits=12, method="SpH", **TINY)
    model.load_teacher(fit_shallow(wide(), model.settings))
    trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(InputError, match=r"give one of UDMSH .*UDMSHPlus, ITQ"):
        HashEncoder.load(tmp_path / "a.ckpt")


def test_codes_of_fused_features_are_for_no_search(tmp_path: Path) -> None:
    model = Shallow(bits=12, method="ITQ", fused=True, **TINY)
    model.load_teacher(fit_shallow(wide(), model.settings))
    trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(InputError, match=r"trained without --model\.fused"):
        HashEncoder.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("options", "words"), [({"finetune": True}, "finetune"), ({"bits": 0}, "--model.bits")]
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Shallow(**TINY, **options)
    assert set(Shallow(**TINY).hparams) == {
        *("bits", "method", "seed", "backbone", "weights", "finetune", "grid", "fused")
    }


def test_short_names_are_options() -> None:
    method = ["--model.method", "ITQ"]
    assert long_form(["fit", "--model", "ITQ", "-x"]) == [
        *("fit", "--model", SHALLOW, *method, "-x")
    ]
    assert long_form(["--model=SpH"]) == [f"--model={SHALLOW}", "--model.method", "SpH"]
    assert long_form(["--model.help", "SH"]) == ["--model.help", SHALLOW]
    other = ["--model", "UDMSH", "--model.branches", "ITQ", "ITQ"]
    assert long_form(other) == other
