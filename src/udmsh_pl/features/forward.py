"""A frozen backbone's forward pass from bytes to two features, by torch or OpenVINO."""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from udmsh_pl.backbones.networks import Backbone, build_backbone
from udmsh_pl.backbones.openvino_core import openvino_core
from udmsh_pl.errors import InputError

Runner = Literal["auto", "torch", "openvino"]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
CHUNK = 8  # images at a time stay in a CPU's caches: 1.6 times faster than 64


# the splits of a data set come one after the other, and conversion takes seconds
@lru_cache(maxsize=1)
def forward_of(
    backbone: str, weights: str | None, content: str, runner: Runner, size: int, grid: int
) -> Forward:
    """``uint8 [B, 3, size, size] -> (global feature, pooled feature map)`` of a frozen backbone, on
    the GPU where there is one.

    Args:
        backbone: backbone name
        weights: see :func:`udmsh_pl.backbones.build_backbone`
        content: what identifies the weights (:func:`udmsh_pl.backbones.weights_id`): a file
            may change
        runner: ``torch`` or ``openvino``
        size: side of the input in pixels
        grid: the feature map is averaged to grid x grid positions
    """
    built = build_backbone(backbone, weights)
    built.settle(size)
    network = _FromPixels(built, grid).eval()
    if runner == "openvino":
        return _openvino_forward(network, size)
    gpus = [torch.device("cuda", number) for number in range(gpu_count())]
    if gpus:
        return replicated(network, gpus)
    network = network.to(memory_format=torch.channels_last)

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            blocks = torch.split(pixels, CHUNK)
            parts = [network(block.to(memory_format=torch.channels_last)) for block in blocks]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    return forward


def gpu_count() -> int:
    """GPUs of this machine that the process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def replicated(network: torch.nn.Module, devices: Sequence[torch.device]) -> Forward:
    """A network on several devices, each of which takes its share of a batch, in half precision.

    A GPU works while the next one is given its share, so one process keeps all of them busy.
    Products are of float16 and sums of float32, as in the convolutions that torch runs on a GPU by
    default and as precise as what is stored; a batch in which something overflows is run again in
    float32.
    """
    replicas = [
        copy.deepcopy(network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for device in devices
    ]

    def run(pixels: Tensor, half: bool) -> tuple[Tensor, Tensor]:
        shares = torch.split(pixels, -(-len(pixels) // len(devices)))
        parts = []
        for replica, device, share in zip(replicas, devices, shares, strict=False):
            moved = share.to(device, non_blocking=True).contiguous(
                memory_format=torch.channels_last
            )
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


class _FromPixels(torch.nn.Module):
    """Normalises, runs the backbone and pools its map where the backbone runs: a quarter of the
    bytes go in, a tenth come out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, grid: int) -> None:
        super().__init__()
        self.network, self.grid = backbone, grid
        self.register_buffer("mean", torch.tensor(backbone.info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.info.std)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network((pixels.float() / 255 - self.mean) / self.std)
        pooled = torch.nn.functional.adaptive_avg_pool2d(features.feature_map, self.grid)
        return features.global_feature, pooled  # a plain tuple, since OpenVINO traces this


def _openvino_forward(backbone: torch.nn.Module, size: int) -> Forward:
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "--data.extractor openvino needs the extra: pip install 'udmsh-pl[extract]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of shape checks, which one backbone always passes alike
        model = openvino.convert_model(
            backbone, example_input=torch.zeros(1, 3, size, size, dtype=torch.uint8)
        )
    model.reshape([-1, 3, size, size])
    # one stream a core, each with its own few images: all cores in one small layer would wait for
    # each other
    options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(torch.get_num_threads())}
    compiled = openvino_core().compile_model(model, "CPU", options)
    streams = openvino.AsyncInferQueue(compiled)

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        answers: dict[int, tuple[Tensor, Tensor]] = {}

        def keep(request: Any, part: int) -> None:
            feature, pooled = (
                torch.from_numpy(request.get_output_tensor(place).data.copy()) for place in (0, 1)
            )
            answers[part] = feature, pooled

        streams.set_callback(keep)
        for part, block in enumerate(torch.split(pixels, CHUNK)):
            streams.start_async({0: block.numpy()}, part)
        streams.wait_all()
        features, pooled = zip(*(answers[part] for part in sorted(answers)), strict=True)
        return torch.cat(features), torch.cat(pooled)

    return forward
