"""From pixels to a backbone's two features: on GPUs, by torch on a CPU, or by OpenVINO."""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from udmsh_pl.backbones.networks import Backbone, build_backbone
from udmsh_pl.backbones.openvino import CHUNK, Graph, convert, has_openvino
from udmsh_pl.errors import InputError

Runner = Literal["auto", "torch", "openvino"]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class PixelFeatures(nn.Module):
    """``uint8 [B, 3, S, S] -> (global feature [B, D], pooled feature map [B, C, grid, grid])``.

    Pixels are normalised and the map is averaged where the backbone (in eval mode) runs: a quarter
    of the bytes go in, a tenth come out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, grid: int) -> None:
        super().__init__()
        self.backbone, self.grid = backbone, grid
        self.register_buffer("mean", torch.tensor(backbone.info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.info.std)[:, None, None])

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; a plain tuple, which exporters trace."""
        found = self.backbone((pixels.float() / 255 - self.mean) / self.std)
        return found.global_feature, adaptive_avg_pool2d(found.feature_map, self.grid)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.features(pixels)


# the splits of a data set come one after the other, and conversion takes seconds
@lru_cache(maxsize=1)
def forward_of(
    backbone: str, weights: str | None, content: str, runner: Runner, size: int, grid: int
) -> Forward:
    """``uint8 [B, 3, size, size] -> (global feature, pooled feature map [B, C, grid, grid])`` of a
    frozen backbone (see :func:`udmsh_pl.backbones.build_backbone`), on the GPU where there is one.

    ``content`` is of :func:`udmsh_pl.backbones.weights_id`, since a file of weights may change.
    Raises ``InputError``: OpenVINO is not installed.
    """
    built = build_backbone(backbone, weights)
    built.settle(size)
    network = PixelFeatures(built, grid).eval()
    if runner == "openvino":
        try:
            graph = Graph(convert(network, size), streams=torch.get_num_threads())
        except ImportError as error:
            raise InputError(
                "--data.extractor openvino needs the extra: pip install 'udmsh-pl[extract]'"
            ) from error

        def by_openvino(pixels: Tensor) -> tuple[Tensor, Tensor]:
            feature, pooled = (torch.from_numpy(part) for part in graph(pixels.numpy()))
            return feature, pooled

        return by_openvino
    gpus = [torch.device("cuda", number) for number in range(gpu_count())]
    if gpus:
        return replicated(network, gpus)
    network = network.to(memory_format=torch.channels_last)

    def by_torch(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            blocks = torch.split(pixels, CHUNK)
            parts = [network(block.to(memory_format=torch.channels_last)) for block in blocks]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    return by_torch


def best_runner() -> Runner:
    """OpenVINO where it is installed and there is no GPU, else torch."""
    return "openvino" if has_openvino() and not gpu_count() else "torch"


def gpu_count() -> int:
    """GPUs of this machine that the process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def replicated(network: nn.Module, devices: Sequence[torch.device]) -> Forward:
    """A network on several devices, each of which takes its share of a batch, in half precision.

    A GPU works while the next one is given its share, so one process keeps all of them busy.
    Products are of float16 and sums of float32, as torch's convolutions on a GPU are by default; a
    batch in which something overflows is run again in float32.
    """
    replicas = [
        copy.deepcopy(network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for device in devices
    ]

    def run(pixels: Tensor, half: bool) -> tuple[Tensor, Tensor]:
        shares = torch.split(pixels, -(-len(pixels) // len(devices)))
        parts = []
        for replica, device, share in zip(replicas, devices, shares, strict=False):
            moved = share.to(device, non_blocking=True)
            moved = moved.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.float16, enabled=half):
                parts.append(replica(moved))
        feature, pooled = (torch.cat([part[at].float().cpu() for part in parts]) for at in (0, 1))
        return feature, pooled

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = run(pixels, half=True)
            whole = all(bool(torch.isfinite(part).all()) for part in found)
            return found if whole else run(pixels, half=False)

    return forward
