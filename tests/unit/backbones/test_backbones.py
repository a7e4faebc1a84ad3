"""Backbones: two outputs of the promised sizes, weights from files, clear errors."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from udmsh_pl.backbones.networks import backbone_info, build_backbone, weights_id
from udmsh_pl.errors import InputError

SHARED = Path(__file__).parents[3].parent / "shared" / "weights"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/weights is not here")


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "mobilenetv3_small_050"])
def test_info_tells_what_the_backbone_gives(name: str) -> None:
    """Other timm models are in ``test_timm_backbones.py``, at their own size."""
    info = backbone_info(name, "random")
    backbone = build_backbone(name, "random")
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 64))
    assert features.global_feature.shape == (2, info.global_dim)
    assert features.feature_map.shape[:2] == (2, info.map_channels)
    assert features.feature_map.ndim == 4
    assert not backbone.training


def test_offline_weights_are_a_real_imagenet_network() -> None:
    backbone = build_backbone("tf_efficientnet_lite0")
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    with torch.no_grad():
        feature, feature_map = backbone(torch.zeros(1, 3, 64, 64))
        _, random_map = build_backbone("tf_efficientnet_lite0", "random")(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(feature, feature_map.mean((2, 3)))
    assert not torch.allclose(feature_map, random_map)
    assert set(backbone.network.state_dict()) == {
        k for k in reference.state_dict() if not k.startswith("classifier")
    }
    running = backbone.network.bn1.running_var
    assert not torch.allclose(running, torch.ones_like(running))  # trained statistics, by position


def test_random_weights_do_not_depend_on_the_callers_seed() -> None:
    torch.manual_seed(5)
    first = build_backbone("alexnet", "random").state_dict()
    before = torch.rand(1)
    second = build_backbone("alexnet", "random").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), before)


@pytest.mark.parametrize(("name", "dim"), [("vgg16", 512), ("alexnet", 256)])
@needs_shared
def test_convolutions_of_a_local_file_give_the_pooled_feature(name: str, dim: int) -> None:
    path = str(SHARED / f"{name}_imagenet_features.safetensors")
    assert backbone_info(name, path).global_dim == dim
    backbone = build_backbone(name, path)
    with torch.no_grad():
        feature, feature_map = backbone(torch.randn(1, 3, 96, 96))
    torch.testing.assert_close(feature, feature_map.mean((2, 3)))
    assert weights_id(name, path) != weights_id(name, "random")


@pytest.fixture(scope="module")
def alexnet() -> torchvision.models.AlexNet:
    """Torchvision's, with random weights, which take half a second."""
    return torchvision.models.alexnet(weights=None).eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_with_fc7_give_fc7_after_relu(
    tmp_path: Path, alexnet: torchvision.models.AlexNet, suffix: str
) -> None:
    network, path = alexnet, tmp_path / f"alexnet{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    backbone, image = build_backbone("alexnet", str(path)), torch.randn(1, 3, 224, 224)
    assert backbone.info == backbone_info("alexnet", str(path))
    assert backbone.info.global_dim == 4096
    with torch.no_grad():
        feature = backbone(image).global_feature
        expected = network.classifier[:-1](network.avgpool(network.features(image)).flatten(1))
    torch.testing.assert_close(feature, expected)
    assert (feature >= 0).all()


def test_a_timm_file_loads(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pth")
    backbone = build_backbone("resnet10t", str(tmp_path / "net.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image).feature_map, network.forward_features(image))


def test_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(InputError, match="resnet18"):
        build_backbone("resnet19")


def test_missing_file_names_the_argument(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--model\.weights"):
        build_backbone("vgg16", str(tmp_path / "none.pth"))


def test_files_that_are_no_weights_of_this_backbone(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read"):
        build_backbone("resnet10t", str(garbage))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="state dict"):
        build_backbone("resnet10t", str(tmp_path / "list.pth"))
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"lacks|needs"):
        build_backbone("resnet10t", str(tmp_path / "other.pth"))
