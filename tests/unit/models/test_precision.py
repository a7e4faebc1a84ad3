"""Two steps of training in every precision; a loss is computed in at least float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from tests.cached import CachedFeatures

from udmsh_pl import baselines
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus, udmsh
from udmsh_pl.similarity.losses import best_rotation, isometric_loss

TINY: dict[str, Any] = {"bits": 8, "backbone": "resnet10t", "weights": "random", "hidden": 16}
METHODS: dict[str, tuple[type[HashingModule], dict[str, Any]]] = {
    "udmsh": (UDMSH, {}),
    "rotation": (UDMSH, {"isometry": "rotation", "confidence": True}),
    "plus": (UDMSHPlus, {"dims": 8}),
    "sdc": (baselines.SDC, {"contrastive_weight": 0.1}),
    "ssdh": (baselines.SSDH, {}),
    "mls3rduh": (baselines.MLS3RDUH, {"cosine_share": 0.2, "manifold_share": 0.3}),
    "cibhash": (baselines.CIBHash, {}),
    "bihalf": (baselines.BiHalf, {"centre": True}),
}


def fitted(name: str, tmp_path: Path, **options: Any) -> tuple[HashingModule, Trainer]:
    kind, own = METHODS[name]
    torch.manual_seed(0)
    model = kind(**TINY, **own)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )
    if trainer.precision != options.get("precision", trainer.precision):
        pytest.skip(f"on a CPU Lightning turns {options['precision']} into {trainer.precision}")
    trainer.fit(model, CachedFeatures(rows=24, batch=12, groups=3))
    return model, trainer


@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU.*")
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_in_any_precision(name: str, precision: str, tmp_path: Path) -> None:
    model, trainer = fitted(name, tmp_path, precision=precision)
    assert trainer.global_step == 2
    losses = {key: value for key, value in trainer.callback_metrics.items() if "loss" in key}
    assert "loss/total" in losses
    for key, value in losses.items():
        assert torch.isfinite(value), key
    dtype = next(model.encoder.parameters()).dtype
    expected = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
    assert dtype == expected.get(precision, torch.float32)
    if name == "rotation":
        assert model.rotation.dtype == (torch.float64 if precision == "64-true" else torch.float32)
        product = model.rotation @ model.rotation.T
        torch.testing.assert_close(product, torch.eye(8).to(product), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_the_loss_is_computed_in_float32(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    original = udmsh.multilevel_pairwise_loss

    def loss(u: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        seen.update({("codes", u.dtype), ("product", (u @ u.T).dtype)})
        return original(u, *others)

    monkeypatch.setattr(udmsh, "multilevel_pairwise_loss", loss)
    fitted("udmsh", tmp_path, precision=precision)
    assert seen == {("codes", torch.float32), ("product", torch.float32)}


def test_a_network_runs_in_the_precision_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = torch.nn.Linear.forward

    def forward(self: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        out = original(self, values)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    fitted("udmsh", tmp_path, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_may_be_clipped(precision: str, tmp_path: Path) -> None:
    _, trainer = fitted("udmsh", tmp_path, precision=precision, gradient_clip_val=0.1)
    assert trainer.optimizers[0].defaults["fused"] is (precision == "32-true")


def test_a_rotation_of_half_precision_codes_is_orthogonal() -> None:
    u = torch.tanh(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)))
    rotation = best_rotation(u.bfloat16())
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6), atol=1e-5, rtol=0)
    assert torch.isfinite(isometric_loss(u.half(), "rotation"))
