"""From pixels to packed codes and re-rank features in one graph, and the folder that keeps it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from udmsh_pl.backbones import networks
from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, Backbone, build_backbone, weights_id
from udmsh_pl.backbones.openvino import convert, has_openvino
from udmsh_pl.backbones.pixels import PixelFeatures
from udmsh_pl.errors import InputError
from udmsh_pl.features.fused import FusedFeature, side_by_side
from udmsh_pl.models import heads
from udmsh_pl.models.heads import FusedEncoder
from udmsh_pl.safe.files import atomic_path, sha256_file
from udmsh_pl.search.spec import GRAPH, WEIGHTS, EncoderSpec, check_files, write_spec

OUTPUTS = ("codes", "features")


class SignEncoder(FusedEncoder):
    """Codes without training: ITQ on the fused feature, for collections too small to learn from.

    Its ``dims`` axes, at least K, are random ones beyond the rank of the few pictures, so that
    pictures that come later differ there.
    """

    def __init__(self, global_dim: int, map_dim: int, bits: int, dims: int) -> None:
        super().__init__(global_dim, map_dim, bits, hidden=1, dims=max(dims, bits), dropout=0.0)
        self.head = nn.Sequential(nn.Linear(max(dims, bits), bits, bias=False))


class HashHead(nn.Module):
    """``(global feature [B, D], map [B, C, g, g]) -> (codes uint8 [B, ceil(K / 8)], re-rank int8
    [B, d])``; codes alone where there is no re-rank feature.

    The encoder is one of :data:`ENCODERS`; ``fusion`` gives the re-rank feature of one that has no
    fused feature of its own.
    """

    def __init__(self, encoder: Any, fusion: FusedFeature | None, dims: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.own_fusion = fusion if not isinstance(encoder, FusedEncoder) else None
        self.dims = dims

    def forward(self, global_feature: Tensor, feature_map: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if isinstance(self.encoder, FusedEncoder):
            fused = self.encoder.fusion.project(self.encoder.parts(global_feature, feature_map))
            return pack_bits(self.encoder.head_logits(fused)), to_int8(fused[:, : self.dims])
        codes = pack_bits(self.encoder.logits(global_feature, feature_map))
        if self.own_fusion is None:
            return (codes,)
        fused = self.own_fusion.project(side_by_side(global_feature, feature_map))
        return codes, to_int8(fused[:, : self.dims])


class PixelEncoder(PixelFeatures):
    """``pixels uint8 [B, 3, S, S] -> (codes, re-rank features)``, see :class:`HashHead`."""

    def __init__(self, backbone: Backbone, grid: int, head: HashHead) -> None:
        super().__init__(backbone, grid)
        self.head = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.head(*self.features(pixels))  # type: ignore[no-any-return]


# the only classes that a folder can name
ENCODERS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (FusedEncoder, heads.DualBranchEncoder, heads.LinearEncoder, SignEncoder)
}


def pack_bits(logits: Tensor) -> Tensor:
    """``[B, K] -> uint8 [B, ceil(K / 8)]``: ``udmsh_pl.retrieval.pack_codes`` without NumPy."""
    bits = pad((logits >= 0).int(), (0, -logits.shape[1] % 8))
    worth = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.int32, device=logits.device)
    eights = bits.reshape(-1, bits.shape[1] // 8, 8)
    return (eights * worth).sum(2).to(torch.uint8)


def to_int8(features: Tensor) -> Tensor:
    """Rows scaled so that their largest entry is 127, rounded: a cosine needs no common scale."""
    largest = features.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return torch.round(features / largest * 127).to(torch.int8)


def write_network(
    network: PixelEncoder, spec: EncoderSpec, folder: Path, graph: bool = True
) -> EncoderSpec:
    """Write weights, OpenVINO's graph if wanted and there, then ``encoder.json``; gives that."""
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
        import openvino

        model = convert(network.cpu().eval(), spec.image_size, OUTPUTS)
        openvino.save_model(model, folder / GRAPH[0], compress_to_fp16=False)
        names += GRAPH
    spec = replace(spec, files=spec.files | {name: sha256_file(folder / name) for name in names})
    write_spec(folder, spec)
    return spec


def read_network(folder: Path, spec: EncoderSpec) -> PixelEncoder:
    """Build the network that ``spec`` describes, with the weights beside it.

    Raises ``InputError``: an unknown class, weights that were altered or do not fit, or another
    version of the backbone's published weights.
    """
    check_files(folder, spec, [WEIGHTS])
    if spec.method not in ENCODERS:
        raise InputError(f"{folder}: no encoder is called {spec.method!r}; export it anew")
    try:
        state = load_file(folder / WEIGHTS)
        with torch.random.fork_rng(devices=[]):  # weights are drawn, though not used
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


def _backbone(spec: EncoderSpec) -> Backbone:
    if not spec.own_backbone:
        found = weights_id(spec.backbone) if spec.backbone == OFFLINE_BACKBONE else ""
        if found != spec.weights:
            raise InputError(
                f"the encoder wants {spec.backbone} with weights {spec.weights[:16]}, installed "
                f"are {found[:16] or 'none'}; install the version that made it, or train anew"
            )
        return build_backbone(spec.backbone)
    if spec.backbone in networks.FC7:
        fc7 = spec.arguments["global_dim"] == 4096
        return networks.TorchvisionBackbone(spec.backbone, fc7)
    return networks.TimmBackbone(spec.backbone)
