"""Encoders: modules that turn a backbone's two features into K logits.

Each has ``logits(global_feature, feature_map=None)``: ``[B, D]`` and ``[B, C, h, w]`` to
``[B, K]``, whose signs are the code.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from udmsh_pl.errors import InputError
from udmsh_pl.features.fused import FIT_ROWS, FusedFeature, side_by_side
from udmsh_pl.features.store import sample_rows
from udmsh_pl.similarity.losses import at_least_float32, best_rotation

Branches = Literal["dual", "global", "spatial"]
Pooling = Literal["average", "gem", "attention"]
MAX_BITS = 1024
ITERATIONS = 50  # of ITQ, as in the paper's code
HEAD_START = 0.1  # share of the usual size of the head's last weights, where codes start as ITQ


def check_bits(bits: int) -> None:
    """Refuse a code length that no encoder has by an InputError: one outside 1 to 1024."""
    if not 1 <= bits <= MAX_BITS:
        raise InputError(
            f"code length is {bits} bits; give --model.bits a number from 1 to {MAX_BITS}"
        )


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """``nn.BatchNorm1d`` and ``2d`` that train alike on any number of CPU cores. *Ours*.

    torch's own adds up a batch thread by thread, and the rounding error grows in training to some
    thousandths of mAP. Takes ``[B, C]`` and ``[B, C, h, w]``.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel; shape and dtype stay."""
        rows = values.numel() // values.shape[1]
        if not self.training or values.device.type != "cpu" or rows < 2:
            return super().forward(values)
        over = [dim for dim in range(values.ndim) if dim != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        wide = at_least_float32(values)
        mean = wide.mean(over)
        centred = wide - mean.view(shape)
        variance = centred.square().mean(over)
        if self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance.detach() * (rows / (rows - 1))
            self.running_mean.lerp_(mean.detach().to(self.running_mean), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(values.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Allow any number of dimensions from two on."""


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a matrix product: as fast on small maps, and unlike a convolution's its
    gradients are the same on any number of threads.

    Positions are copied side by side first: strided ones torch multiplies image by image where
    nothing needs a gradient, which takes three times as long.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel_size=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """``[B, C, h, w] -> [B, width, h, w]``."""
        positions = feature_map.movedim(1, -1).contiguous()
        return nn.functional.linear(positions, self.weight[:, :, 0, 0], self.bias).movedim(-1, 1)


class SpatialPool(nn.Module):
    """A map ``[B, C, h, w]`` becomes ``[B, C]``.

    Args:
        channels: C
        kind: ``average``; ``gem``, the generalised mean (Radenovic et al., TPAMI 2019), whose power
            starts at 3; ``attention``, a learned weighting of the positions
    """

    def __init__(self, channels: int, kind: Pooling) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
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
        check_bits(bits)

        def activation(width: int) -> list[nn.Module]:
            return [BatchNorm(width), nn.ReLU()] if batch_norm else [nn.ReLU()]

        self.branches = branches
        if branches != "spatial":
            self.global_branch = nn.Sequential(nn.Linear(global_dim, hidden), *activation(hidden))
        if branches != "global":
            self.spatial_branch = nn.Sequential(
                Pointwise(map_channels, spatial_hidden),  # conv6
                *activation(spatial_hidden),
                Pointwise(spatial_hidden, spatial_hidden),  # conv7
                *activation(spatial_hidden),
                SpatialPool(spatial_hidden, pooling),
            )
        widths = {"dual": hidden + spatial_hidden, "global": hidden, "spatial": spatial_hidden}
        self.hash_layer = nn.Linear(widths[branches], bits)

    def forward(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, h, w]) -> u [B, K]`` in (-1, 1)."""
        return torch.tanh(self.logits(global_feature, feature_map))

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """Output before tanh, ``[B, K]``; ``branches="global"`` needs no map."""
        parts = []
        if self.branches != "spatial":
            parts.append(self.global_branch(global_feature))
        if self.branches != "global":
            if feature_map is None:
                mend = "use --model.branches global without one"
                raise InputError(f"the spatial branch needs the feature map; {mend}")
            parts.append(self.spatial_branch(feature_map))
        logits: Tensor = self.hash_layer(torch.cat(parts, dim=1))
        return logits


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


class FusedEncoder(nn.Module):
    """``u = tanh(head(fused feature) + W fused feature)`` on a fitted :class:`FusedFeature`.

    W, the linear path, is 0 unless :meth:`start_from_itq` is called: codes learned without this
    path do not change. *Ours*.

    Args:
        global_dim: D, length of the backbone's global feature
        map_dim: length of the flattened feature map; 0 leaves the map out
        bits: code length K
        hidden: width of the head
        dims: principal axes that feed the head
        dropout: share of hidden units left out in training
    """

    def __init__(
        self, global_dim: int, map_dim: int, bits: int, hidden: int, dims: int, dropout: float
    ) -> None:
        super().__init__()
        check_bits(bits)
        self.with_map = map_dim > 0
        self.fusion = FusedFeature((global_dim, map_dim) if map_dim else (global_dim,), dims)
        self.head = nn.Sequential(
            nn.Linear(dims, hidden),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, bits),
        )
        self.direct = nn.Linear(dims, bits, bias=False)
        nn.init.zeros_(self.direct.weight)

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, g, g]) -> [B, K]``, before tanh."""
        return self.head_logits(self.fuse(global_feature, feature_map))

    def head_logits(self, fused: Tensor) -> Tensor:
        """The same of fused features ``[B, dims]`` of any dtype."""
        fused = fused.to(self.direct.weight.dtype)
        logits: Tensor = self.head(fused) + self.direct(fused)
        return logits

    def fuse(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, g, g]) -> [B, dims]``, at least float32."""
        with torch.autocast(global_feature.device.type, enabled=False):
            fused: Tensor = self.fusion(self.parts(global_feature, feature_map))
        return fused

    def parts(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """Both features side by side, float32 ``[B, D + C g g]``."""
        if self.with_map and feature_map is None:
            mend = "use --model.branches global without one"
            raise InputError(f"the fused feature needs the feature map; {mend}")
        return side_by_side(global_feature, feature_map if self.with_map else None)

    def load_fusion(self, state: Mapping[str, Tensor]) -> None:
        """Take over what was fitted, ``fusion.*`` of ``state``, in the precision of the fit."""
        fitted = {name: state[f"fusion.{name}"].clone() for name in self.fusion.state_dict()}
        self.fusion.load_state_dict(fitted, assign=True)
        self.fusion.to(self.direct.weight.device)

    def start_from_itq(self, fused: Tensor) -> None:
        """Let the codes start as ITQ (Gong & Lazebnik, CVPR 2011) of fused features ``[N, dims]``.

        A learned path stays; a path that is not trained stays 0.
        """
        path, last = self.direct.weight, self.head[-1]
        if path.any() or not path.requires_grad or not isinstance(last, nn.Linear):
            return
        rows = torch.from_numpy(sample_rows(len(fused), FIT_ROWS))
        leading = fused[rows, : len(path)].float()  # [n, min(dims, K)]
        count = leading.shape[1]
        generator = torch.Generator().manual_seed(0)
        turn = torch.linalg.qr(torch.randn(count, count, generator=generator))[0]
        turn = turn @ best_rotation(leading @ turn, ITERATIONS)
        with torch.no_grad():
            path[:count, :count] = turn.T / leading.std().clamp_min(1e-12)
            last.weight.mul_(HEAD_START)
            last.bias.zero_()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """Set the path to 0 for a checkpoint that has no path."""
        if f"{prefix}direct.weight" not in state:
            state[f"{prefix}direct.weight"] = torch.zeros_like(self.direct.weight)
            self.direct.requires_grad_(False)
        super()._load_from_state_dict(state, prefix, *others)
