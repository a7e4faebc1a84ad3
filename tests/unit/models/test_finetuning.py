"""A backbone that is trained: every parameter gets a gradient, so that DDP waits for none."""

from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from lightning import Trainer
from tests.cached import taught

from udmsh_pl import baselines
from udmsh_pl.backbones.networks import build_backbone
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus
from udmsh_pl.models.finetuning import freeze_unused, refuse_sync_batchnorm
from udmsh_pl.models.heads import Branches, Pooling

ROWS = 12
TINY: dict[str, Any] = {
    "bits": 4, "weights": "random", "finetune": True, "hidden": 8, "spatial_hidden": 8,
}  # fmt: skip


def stepped(model: HashingModule) -> set[str]:
    """One step of the objective on random images; parameters that it left without a gradient."""
    info, generator = model.backbone_info, np.random.default_rng(0)
    arrays = {
        "global_feature": generator.random((ROWS, info.global_dim)),
        "feature_map": generator.random((ROWS, info.map_channels, 2, 2)),
    }
    stored = {name: array.astype(np.float16) for name, array in arrays.items()}
    assert model.network is not None
    freeze_unused(model.network, model.used_features)
    features = TrainFeatures(stored)
    model.load_teacher(model.fit_teacher(features))
    batch = taught(model, features, range(ROWS))
    batch["image"] = torch.randn(ROWS, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.stack(list(model.train().objective(batch).values())).sum().backward()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert any(name.startswith("network.") for name in trained)
    return {name for name, one in trained.items() if one.grad is None}


def test_a_trained_backbone_is_laid_out_for_speed_and_says_the_same() -> None:
    options = {**TINY, "backbone": "mobilenetv3_small_050"}
    model = UDMSH(**options).eval()
    assert model.network is not None
    plain = build_backbone("mobilenetv3_small_050", "random")
    pairs = zip(plain.parameters(), model.network.parameters(), strict=True)
    for mine, laid_out in pairs:
        assert torch.equal(mine, laid_out)
        if laid_out.dim() == 4:
            assert laid_out.is_contiguous(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for mine, theirs in zip(model.backbone_features(image), plain(image), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("branches", get_args(Branches))
def test_no_parameter_is_left_without_a_gradient(branches: Branches, pooling: Pooling) -> None:
    # a network whose global feature has layers that the map does not go through
    options = {**TINY, "backbone": "mobilenetv3_small_050"}
    assert not stepped(UDMSH(branches=branches, pooling=pooling, batch_norm=True, **options))


@pytest.mark.parametrize("branches", get_args(Branches))
@pytest.mark.parametrize("kind", [UDMSHPlus, baselines.SSDH, baselines.SDC, baselines.BiHalf])
def test_nor_in_other_methods(kind: type[HashingModule], branches: Branches) -> None:
    own = {"dims": 8} if kind is UDMSHPlus else {}
    options = {**TINY, **own, "backbone": "mobilenetv3_small_050"}
    assert not stepped(kind(branches=branches, **options))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "resnet10t"])
def test_only_what_the_map_does_not_need_is_frozen(name: str) -> None:
    network = build_backbone(name, "random")
    freeze_unused(network, (0, 1))
    assert all(parameter.requires_grad for parameter in network.parameters())
    freeze_unused(network, (1,))
    frozen = {name for name, one in network.named_parameters() if not one.requires_grad}
    expected = {"network.conv_head.weight", "network.conv_head.bias"} if "mobile" in name else set()
    assert frozen == expected
    assert not network.training


def test_swapped_normalisation_of_a_timm_backbone_is_refused() -> None:
    network = build_backbone("resnet10t", "random")
    asked = Trainer(
        accelerator="cpu", strategy="ddp", devices=2, sync_batchnorm=True, logger=False,
        enable_checkpointing=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="replaces the normalisation of a timm backbone") as told:
        refuse_sync_batchnorm(asked, network)
    assert "\n" not in str(told.value)
    refuse_sync_batchnorm(asked, None)
    refuse_sync_batchnorm(SimpleNamespace(strategy=SimpleNamespace()), network)  # one process
