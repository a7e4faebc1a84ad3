"""An encoder's folder, seen from torch: its weights in ``encoder.safetensors``, its graph for
OpenVINO beside them.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from udmsh_pl.backbones.networks import (
    FC7,
    OFFLINE_BACKBONE,
    Backbone,
    TimmBackbone,
    TorchvisionBackbone,
    build_backbone,
    weights_id,
)
from udmsh_pl.errors import InputError
from udmsh_pl.models.heads import DualBranchEncoder, FusedEncoder, FusedFeature, LinearEncoder
from udmsh_pl.safe.files import atomic_path, sha256_file
from udmsh_pl.search.network import HashHead, PixelEncoder, SignEncoder
from udmsh_pl.search.spec import EncoderSpec, check_files, write_spec

WEIGHTS, GRAPH = "encoder.safetensors", "encoder.xml"
OUTPUTS = ("codes", "features")
# the only classes that a folder can name
ENCODERS: Mapping[str, type[Any]] = {
    "FusedEncoder": FusedEncoder,
    "DualBranchEncoder": DualBranchEncoder,
    "LinearEncoder": LinearEncoder,
    "SignEncoder": SignEncoder,
}


def write_network(
    network: PixelEncoder, spec: EncoderSpec, folder: Path, graph: bool = True
) -> EncoderSpec:
    """Write weights, with ``graph`` OpenVINO's one where OpenVINO is installed, and
    ``encoder.json`` last.

    Returns the specification with the checksums.
    """
    state = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in network.state_dict().items()
        if spec.own_backbone or not name.startswith("backbone.")
    }
    with atomic_path(folder / WEIGHTS) as partial:
        save_file(state, partial)
        partial.chmod(0o644)  # as any other file; the writer makes it private
    names = [WEIGHTS]
    if graph and has_openvino():
        names += write_openvino(network, spec.image_size, folder)
    sums = {name: sha256_file(folder / name) for name in names}
    spec = replace(spec, files=spec.files | sums)
    write_spec(folder, spec)
    return spec


def read_network(folder: Path, spec: EncoderSpec) -> PixelEncoder:
    """Build the network that ``spec`` describes, with the weights beside it.

    Raises:
        InputError: an unknown class, weights that were altered or do not fit, or another version of
            the backbone's published weights.
    """
    check_files(folder, spec, [WEIGHTS])
    if spec.method not in ENCODERS:
        raise InputError(f"{folder}: no encoder is called {spec.method!r}; export it anew")
    try:
        state = load_file(folder / WEIGHTS)
        encoder = ENCODERS[spec.method](**spec.arguments)
        backbone = _backbone(spec)
        axes = state.get("head.own_fusion.axes")
        fusion = None
        if axes is not None:
            parts = backbone.info.global_dim, backbone.info.map_channels * spec.grid**2
            fusion = FusedFeature(parts, axes.shape[1])
        network = PixelEncoder(backbone, spec.grid, HashHead(encoder, fusion, spec.dims))
        kept = {} if spec.own_backbone else network.backbone.state_dict(prefix="backbone.")
        network.load_state_dict(state | kept)
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError) as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: its weights do not fit ({what}); export it anew") from error
    return network.eval()


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def write_openvino(network: PixelEncoder, side: int, folder: Path) -> list[str]:
    """Write ``encoder.xml`` and ``encoder.bin`` and give their names."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing tells of shape checks that always pass alike
        model = openvino.convert_model(network.cpu().eval(), example_input=example)
    model.reshape([-1, 3, side, side])
    for output, name in zip(model.outputs, OUTPUTS, strict=False):
        output.get_tensor().set_names({name})
    model.inputs[0].get_tensor().set_names({"pixels"})
    openvino.save_model(model, folder / GRAPH, compress_to_fp16=False)
    return [GRAPH, "encoder.bin"]


def _backbone(spec: EncoderSpec) -> Backbone:
    if not spec.own_backbone:
        found = weights_id(spec.backbone) if spec.backbone == OFFLINE_BACKBONE else ""
        if found != spec.weights:
            raise InputError(
                f"the encoder wants {spec.backbone} with weights {spec.weights[:16]}, installed "
                f"are {found[:16] or 'none'}; install the version that made it, or train anew"
            )
        return build_backbone(spec.backbone)
    if spec.backbone in FC7:
        return TorchvisionBackbone(spec.backbone, spec.arguments["global_dim"] == 4096)
    return TimmBackbone(spec.backbone)
