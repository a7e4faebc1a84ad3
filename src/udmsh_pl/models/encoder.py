"""The dual-branch encoder: global CNN branch and spatial FCN branch, fused by one hash layer."""

import torch
from torch import Tensor, nn

from udmsh_pl.errors import InputError
from udmsh_pl.models.batch_norm import BatchNorm
from udmsh_pl.models.options import Branches, Pooling

MAX_BITS = 1024


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a matrix product: on small maps no slower, and unlike a convolution's
    its gradients are the same on any number of threads.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel_size=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """``[B, C, h, w] -> [B, width, h, w]``."""
        positions = feature_map.movedim(1, -1)
        return nn.functional.linear(positions, self.weight[:, :, 0, 0], self.bias).movedim(-1, 1)


class SpatialPool(nn.Module):
    """A map ``[B, C, h, w]`` becomes ``[B, C]``: mean, generalised mean, or a learned weighting of
    the positions.
    """

    def __init__(self, channels: int, kind: Pooling) -> None:
        super().__init__()
        self.kind = kind
        if (
            kind == "gem"
        ):  # Radenovic et al., TPAMI 2019: p = 1 is the mean, p -> inf the maximum; starts at 3
            self.power = nn.Parameter(torch.tensor(3.0))
        elif kind == "attention":
            self.score = Pointwise(channels, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """``[B, C, h, w] -> [B, C]``."""
        positions = feature_map.flatten(2)
        if self.kind == "gem":
            mean: Tensor = positions.clamp_min(1e-6).pow(self.power).mean(2)
            return mean.pow(1 / self.power)
        if self.kind == "attention":
            scores: Tensor = self.score(feature_map)
            return (positions * scores.flatten(2).softmax(2)).sum(2)
        return positions.mean(2)


class DualBranchEncoder(nn.Module):
    """``u = tanh(W [g; s] + b)`` from a backbone's global feature and feature map.

    Source: both branches, learned jointly: *stated* (UDMSH, abstract). Layout (fully connected
    layers on the global feature; 1x1 "conv6, conv7" on the map, then pooling): *read* from Deep
    Ordinal Hashing, arXiv 1805.02459. Batch normalisation before the ReLU of each hidden layer:
    *ours*, ``batch_norm=False`` gives the plain layers.

    Args:
        global_dim: D, length of the backbone's global feature
        map_channels: C, channels of the backbone's feature map
        bits: code length K, 1 to 1024
        hidden: width of the global branch
        spatial_hidden: width of the spatial branch
        branches: ``dual``, or one of the two alone
        pooling: how the spatial map is pooled
        batch_norm: normalise each hidden layer over the batch

    Raises:
        InputError: ``bits`` is outside 1 to 1024.
    """

    def __init__(
        self,
        global_dim: int,
        map_channels: int,
        bits: int,
        hidden: int = 1024,
        spatial_hidden: int = 256,
        branches: Branches = "dual",
        pooling: Pooling = "average",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= bits <= MAX_BITS:
            raise InputError(
                f"code length is {bits} bits; give --model.bits a number from 1 to {MAX_BITS}"
            )
        self.branches = branches
        if branches != "spatial":
            self.global_branch = nn.Sequential(
                nn.Linear(global_dim, hidden), *_after(hidden, batch_norm)
            )
        if branches != "global":
            self.spatial_branch = nn.Sequential(
                Pointwise(map_channels, spatial_hidden),  # conv6
                *_after(spatial_hidden, batch_norm),
                Pointwise(spatial_hidden, spatial_hidden),  # conv7
                *_after(spatial_hidden, batch_norm),
                SpatialPool(spatial_hidden, pooling),
            )
        width = {"dual": hidden + spatial_hidden, "global": hidden, "spatial": spatial_hidden}[
            branches
        ]
        self.hash_layer = nn.Linear(width, bits)

    def forward(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, h, w]) -> u [B, K]`` in (-1, 1); the map may be absent for
        ``branches=global``.
        """
        return torch.tanh(self.logits(global_feature, feature_map))

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """The same before tanh, for methods that binarise in another way."""
        parts = []
        if self.branches != "spatial":
            parts.append(self.global_branch(global_feature))
        if self.branches != "global":
            if feature_map is None:
                raise InputError(
                    "the spatial branch needs the feature map; use --model.branches global without "
                    "one"
                )
            parts.append(self.spatial_branch(feature_map))
        logits: Tensor = self.hash_layer(torch.cat(parts, dim=1))
        return logits


def _after(width: int, batch_norm: bool) -> list[nn.Module]:
    return [BatchNorm(width), nn.ReLU()] if batch_norm else [nn.ReLU()]


class LinearEncoder(nn.Module):
    """Signs of ``(x - mean) W``: a linear method after it was fitted; nothing in it is trained.

    Args:
        global_dim: D, length of the backbone's global feature
        bits: code length K
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, global_dim: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(global_dim))
        self.register_buffer("directions", torch.zeros(global_dim, bits))

    def filled(self, mean: Tensor, directions: Tensor) -> "LinearEncoder":
        """Itself, with mean ``[D]`` and directions ``[D, K]``."""
        self.mean.copy_(mean)
        self.directions.copy_(directions)
        return self

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``[B, D] -> [B, K]``."""
        return (global_feature.to(self.mean.dtype) - self.mean) @ self.directions
