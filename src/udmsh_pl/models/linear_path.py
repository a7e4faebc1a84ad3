"""The dual-branch encoder with a linear path beside its branches, whose codes start as ITQ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from udmsh_pl.features.store import Arrays, sample_rows
from udmsh_pl.models.encoder import DualBranchEncoder
from udmsh_pl.models.fusion import FIT_ROWS, ROWS_AT_ONCE, FusedFeature, itq_start, without_path
from udmsh_pl.models.options import Branches, Pooling

DIMS = 512  # principal axes of the fused feature


class LinearPathEncoder(DualBranchEncoder):
    """``u = tanh(W [g; s] + b + P f)``: f is the fused feature of what the branches read.

    P, the linear path, is 0 unless :meth:`start_from_itq` is called. *Ours*.

    Args:
        global_dim: D, length of the backbone's global feature
        map_channels: C, channels of the backbone's feature map
        bits: code length K
        hidden: width of the global branch
        spatial_hidden: width of the spatial branch
        branches: ``dual``, or one of the two alone
        pooling: how the spatial map is pooled
        batch_norm: normalise each hidden layer over the batch
        grid: g, the map is averaged to g x g before it is fused
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
        grid: int = 2,
    ) -> None:
        super().__init__(
            global_dim, map_channels, bits, hidden, spatial_hidden, branches, pooling, batch_norm
        )
        self.grid = grid
        sizes = {"global": global_dim, "spatial": map_channels * grid**2}
        self.fusion = FusedFeature(
            tuple(size for name, size in sizes.items() if branches in ("dual", name)), DIMS
        )
        self.direct = nn.Linear(DIMS, bits, bias=False)
        nn.init.zeros_(self.direct.weight)

    def start_from_itq(self, fused: Tensor) -> None:
        """Let the codes start as ITQ of fused features ``[N, dims]``; see :func:`itq_start`."""
        itq_start(self.direct, fused, self.hash_layer)

    def logits(
        self, global_feature: Tensor, feature_map: Tensor | None = None, fused: Tensor | None = None
    ) -> Tensor:
        """As in the base; ``fused [B, dims]`` where it was made beforehand."""
        logits = super().logits(global_feature, feature_map)
        if fused is None:
            fused = self.fuse(global_feature, feature_map)
        path: Tensor = self.direct(fused.to(self.direct.weight.dtype))
        return logits + path

    def fuse(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, h, w]) -> [B, dims]``, at least float32."""
        with torch.autocast(global_feature.device.type, enabled=False):
            parts = []
            if self.branches != "spatial":
                parts.append(global_feature.float())
            if self.branches != "global" and feature_map is not None:
                pooled = nn.functional.adaptive_avg_pool2d(feature_map.float(), self.grid)
                parts.append(pooled.flatten(1))
            return self.fusion.project(torch.cat(parts, dim=1))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        without_path(self.direct, state, prefix)
        for name, value in self.fusion.state_dict().items():
            state.setdefault(f"{prefix}fusion.{name}", value)
        super()._load_from_state_dict(state, prefix, *others)


def fit_path(stored: Arrays, branches: Branches) -> dict[str, Tensor]:
    """Fit the fused feature of what ``branches`` read.

    Returns:
        ``fusion.*``, buffers of the :class:`FusedFeature`; ``inputs``, float16 ``[N, dims]``, what
        it makes of the train images.
    """
    wanted = {"global": "global_feature", "spatial": "feature_map"}
    read = [stored[array] for name, array in wanted.items() if branches in ("dual", name)]
    fusion = FusedFeature(tuple(int(np.prod(array.shape[1:])) for array in read), DIMS)
    fusion.fit(_rows(read, sample_rows(len(read[0]), FIT_ROWS)))
    starts = range(0, len(read[0]), ROWS_AT_ONCE)
    inputs = [fusion(_rows(read, slice(at, at + ROWS_AT_ONCE))).half() for at in starts]
    state = {f"fusion.{name}": value for name, value in fusion.state_dict().items()}
    return state | {"inputs": torch.cat(inputs)}


def _rows(read: Sequence[Any], rows: Any) -> Tensor:
    chosen = [torch.from_numpy(np.array(array[rows])).float().flatten(1) for array in read]
    return torch.cat(chosen, dim=1)
