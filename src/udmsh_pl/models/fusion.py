"""One vector of a backbone's two features, and the head that turns it into relaxed codes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import sample_rows
from udmsh_pl.models.batch_norm import BatchNorm
from udmsh_pl.models.encoder import MAX_BITS
from udmsh_pl.similarity.losses import best_rotation

ROWS_AT_ONCE = 1024  # projected
FIT_ROWS = 20_000  # train rows that ITQ, and the fused feature's axes, are fitted on
ITERATIONS = 50  # of ITQ, as in the paper's code
HEAD_START = 0.1  # of the usual size of the head's last weights, where codes start as ITQ
LEAST_SCATTER = 0.3  # of the mean variance within views, added to every direction's
EXTRA = 64  # axes searched beyond those kept: the last ones of a randomised search are blurred


class FusedFeature(nn.Module):
    """Signed square root, centre and unit length of each part; both parts together, centred and
    turned to principal axes. *Ours*.

    The square root tames channels that burst (as RootSIFT: Arandjelovic & Zisserman, CVPR 2012);
    the flattened map keeps where in the image something is. What is fitted, on train features
    alone, are buffers: a checkpoint holds them.

    Args:
        parts: length of each part: global feature, flattened feature map
        dims: principal axes kept; those beyond the rank of the train features are zero
    """

    means: Tensor
    centre: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, parts: tuple[int, ...], dims: int = 512) -> None:
        super().__init__()
        self.parts, self.dims = parts, dims
        self.register_buffer("means", torch.zeros(sum(parts)))
        self.register_buffer("centre", torch.zeros(sum(parts)))
        self.register_buffer("axes", torch.zeros(sum(parts), dims))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, parts: Tensor) -> None:
        """Fit to the train features ``[N, sum(parts)]``, global feature and flattened map side by
        side.
        """
        self.means.copy_(_root(parts).mean(0))
        fused = self._fuse(parts)
        self.centre.copy_(fused.mean(0))
        rank = min(self.dims, *fused.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the search for the axes starts from random ones
            searched = min(rank + EXTRA, *fused.shape)
            axes = torch.pca_lowrank(fused - self.centre, q=searched, center=False, niter=2)[2]
        self.axes.zero_()
        self.axes[:, :rank] = axes[:, :rank]
        self.scale.copy_(self._turn(fused).std().clamp_min(1e-12))

    def discount_views(self, shown: Tensor, power: float) -> None:
        """Shorten the directions in which an image differs from its own views, in place.

        A direction whose variance within an image's views is w shrinks by ``w^(power / 2)``; then
        the axes are the principal ones again. As linear discriminant analysis does with classes
        (Fisher, 1936), each image being one. *Ours*.

        Args:
            shown: ``[N, 1 + V, dims]``, fused train images and their views
            power: 0 changes nothing, 1 makes every direction vary alike within views
        """
        rows = torch.from_numpy(sample_rows(len(shown), FIT_ROWS))
        sample = shown[rows].float()  # [n, 1 + V, dims]
        apart = (sample - sample.mean(1, keepdim=True)).flatten(0, 1)
        within, directions = torch.linalg.eigh(apart.T @ apart)
        within = within / within.mean() + LEAST_SCATTER
        turn = directions * within.pow(-power / 2) @ directions.T  # [dims, dims]
        principal = torch.linalg.eigh(torch.cov((sample[:, 0] @ turn).T))[1].flip(1)
        turn = turn @ principal
        turn /= (sample[:, 0] @ turn).std().clamp_min(1e-12)
        self.axes.copy_(self.axes @ turn)
        for block in torch.split(shown, ROWS_AT_ONCE):
            block.copy_(block.float() @ turn)

    def forward(self, parts: Tensor) -> Tensor:
        """``[B, sum(parts)] -> [B, dims]``, with a standard deviation of 1 over all entries of the
        train features.
        """
        return torch.cat([self.project(block) for block in torch.split(parts, ROWS_AT_ONCE)])

    def project(self, parts: Tensor) -> Tensor:
        """The same in one piece: what a traced graph needs, whose number of rows is open."""
        return self._turn(self._fuse(parts)) / self.scale

    def _fuse(self, parts: Tensor) -> Tensor:
        split = torch.split(_root(parts) - self.means, list(self.parts), dim=1)
        return normalize(torch.cat([normalize(part, dim=1) for part in split], dim=1), dim=1)

    def _turn(self, fused: Tensor) -> Tensor:
        turned = fused - self.centre
        return turned @ self.axes.to(turned.dtype)


class FusedEncoder(nn.Module):
    """``u = tanh(head(fused feature) + W fused feature)``: an encoder as
    :class:`DualBranchEncoder`, on a fitted :class:`FusedFeature`.

    W, the linear path, is 0 unless :meth:`start_from_itq` is called: codes that were learned
    without one stay as they are. *Ours*.

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
        if not 1 <= bits <= MAX_BITS:
            raise InputError(
                f"code length is {bits} bits; give --model.bits a number from 1 to {MAX_BITS}"
            )
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

    def start_from_itq(self, fused: Tensor) -> None:
        """Let the codes start as ITQ of fused features ``[N, dims]``; see :func:`itq_start`."""
        itq_start(self.direct, fused, self.head[-1])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        without_path(self.direct, state, prefix)
        super()._load_from_state_dict(state, prefix, *others)

    def fuse(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """``(global [B, D], map [B, C, g, g]) -> [B, dims]``, at least float32."""
        with torch.autocast(global_feature.device.type, enabled=False):
            return self.fusion(self.parts(global_feature, feature_map))  # type: ignore[no-any-return]

    def parts(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """Both features side by side, float32 ``[B, D + C g g]``."""
        if self.with_map and feature_map is None:
            raise InputError(
                "the fused feature needs the feature map; use --model.branches global without one"
            )
        return side_by_side(global_feature, feature_map if self.with_map else None)

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """Head output before tanh, ``[B, K]``."""
        return self.head_logits(self.fuse(global_feature, feature_map))

    def head_logits(self, fused: Tensor) -> Tensor:
        """The same of fused features ``[B, dims]`` of any dtype."""
        fused = fused.to(self.direct.weight.dtype)
        return self.head(fused) + self.direct(fused)  # type: ignore[no-any-return]


def load_fusion(fusion: FusedFeature, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Take over what was fitted, ``fusion.*`` of ``state``, in the precision of the fit."""
    fitted = {
        name.removeprefix("fusion."): value.clone()
        for name, value in state.items()
        if name.startswith("fusion.")
    }
    fusion.load_state_dict(fitted, assign=True)
    fusion.to(device)


def without_path(direct: nn.Linear, state: dict[str, Any], prefix: str) -> None:
    """Give the state of an encoder that was learned before there was a linear path one that is 0,
    and stays so where training goes on.
    """
    if f"{prefix}direct.weight" not in state:
        state[f"{prefix}direct.weight"] = torch.zeros_like(direct.weight)
        direct.requires_grad_(False)


def itq_start(direct: nn.Linear, fused: Tensor, last: Any) -> None:
    """Let codes start as ITQ (Gong & Lazebnik, CVPR 2011) of fused features; a path that was
    learned stays, and one that is not trained is left out.

    Args:
        direct: the linear path from the fused feature to the logits
        fused: ``[N, dims]``, on principal axes
        last: the linear layer whose output is added to the path's; starts small
    """
    if direct.weight.any() or not direct.weight.requires_grad:
        return
    rows = torch.from_numpy(sample_rows(len(fused), FIT_ROWS))
    leading = fused[rows, : len(direct.weight)].float()  # [n, min(dims, K)]
    count = leading.shape[1]
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(count, count, generator=generator))[0]
    turn = turn @ best_rotation(leading @ turn, ITERATIONS)
    with torch.no_grad():
        direct.weight[:count, :count] = turn.T / leading.std().clamp_min(1e-12)
        last.weight.mul_(HEAD_START)
        last.bias.zero_()


def side_by_side(global_feature: Tensor, feature_map: Tensor | None) -> Tensor:
    """``[B, D]`` and ``[B, C, g, g]`` as float32 ``[B, D + C g g]``; the feature alone without a
    map.
    """
    if feature_map is None:
        return global_feature.float()
    return torch.cat([global_feature.float(), feature_map.float().flatten(1)], dim=1)


def _root(parts: Tensor) -> Tensor:
    values = parts.float()
    return (
        values / values.abs().clamp_min(1e-6).sqrt()
    )  # a line through 0, where the root's own slope is infinite
