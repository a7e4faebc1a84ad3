"""From pixels to packed codes and re-rank features in one graph, so that it can be traced,
converted and exported.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, pad

from udmsh_pl.models.heads import (
    DualBranchEncoder,
    FusedEncoder,
    FusedFeature,
    LinearEncoder,
    side_by_side,
)

ITERATIONS = 50  # of ITQ, as in the paper's code


class SignEncoder(FusedEncoder):
    """Codes without training: ITQ on the fused feature, for collections too small to learn from.

    The axes beyond the rank of the few pictures are random ones, so that pictures that come later
    differ there.

    Args:
        global_dim: D, length of the backbone's global feature
        map_dim: length of the flattened feature map
        bits: code length K
        dims: axes kept, at least K
    """

    def __init__(self, global_dim: int, map_dim: int, bits: int, dims: int) -> None:
        super().__init__(global_dim, map_dim, bits, hidden=1, dims=max(dims, bits), dropout=0.0)
        self.head = nn.Sequential(nn.Linear(max(dims, bits), bits, bias=False))


class HashHead(nn.Module):
    """``(global feature [B, D], map [B, C, g, g]) -> (codes uint8 [B, ceil(K / 8)], re-rank int8
    [B, d])``; codes alone where there is no re-rank feature.

    Args:
        encoder: gives the bits before their sign
        fusion: the fused feature whose first ``dims`` axes are the re-rank feature; None where the
            encoder has none and none was fitted
        dims: d
    """

    def __init__(
        self,
        encoder: FusedEncoder | DualBranchEncoder | LinearEncoder,
        fusion: FusedFeature | None,
        dims: int,
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.own_fusion = fusion if not isinstance(encoder, FusedEncoder) else None
        self.dims = dims

    def forward(self, global_feature: Tensor, feature_map: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if isinstance(self.encoder, FusedEncoder):
            with_map = feature_map if self.encoder.with_map else None
            fused = self.encoder.fusion.project(side_by_side(global_feature, with_map))
            return pack_bits(self.encoder.head_logits(fused)), to_int8(fused[:, : self.dims])
        codes = pack_bits(self.encoder.logits(global_feature, feature_map))
        if self.own_fusion is None:
            return (codes,)
        fused = self.own_fusion.project(side_by_side(global_feature, feature_map))
        return codes, to_int8(fused[:, : self.dims])


class PixelEncoder(nn.Module):
    """``pixels uint8 [B, 3, S, S] -> (codes, re-rank features)``, see :class:`HashHead`."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Any, grid: int, head: HashHead) -> None:
        super().__init__()
        self.backbone, self.grid, self.head = backbone, grid, head
        self.register_buffer("mean", torch.tensor(backbone.info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.info.std)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.head(*self.backbone_features(pixels))  # type: ignore[no-any-return]

    def backbone_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``uint8 [B, 3, S, S] -> (global feature [B, D], pooled map [B, C, g, g])``."""
        found = self.backbone((pixels.float() / 255 - self.mean) / self.std)
        return found.global_feature, adaptive_avg_pool2d(found.feature_map, self.grid)


def pack_bits(logits: Tensor) -> Tensor:
    """As :func:`udmsh_pl.retrieval.pack_codes`, in a graph: [B, K] -> uint8 [B, ceil(K / 8)]."""
    bits = pad((logits >= 0).int(), (0, -logits.shape[1] % 8))
    worth = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.int32, device=logits.device)
    eights = bits.reshape(-1, bits.shape[1] // 8, 8)
    return (eights * worth).sum(2).to(torch.uint8)


def to_int8(features: Tensor) -> Tensor:
    """Rows scaled so that their largest entry is 127, rounded: a cosine needs no common scale."""
    largest = features.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return torch.round(features / largest * 127).to(torch.int8)
