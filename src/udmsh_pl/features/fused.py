"""The fused feature: one vector of a backbone's global feature and feature map, *ours*.

`udmsh-plus` learns from it. With ``--model.fused true`` every other method of a plan does too
(:func:`present_fused`): beside methods that read the same feature one sees what learning adds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from udmsh_pl.features.store import Arrays, sample_rows

DIMS = 512  # principal axes
FIT_ROWS = 20_000  # train rows that the axes are fitted on
ROWS_AT_ONCE = 1024  # rows that are fused at once
FILLED_AT_ONCE = 128  # rows that are read, or change in place: what they need meanwhile is small
LEAST_SCATTER = 0.3  # share of the mean variance within views, added to every direction's
EXTRA = 64  # axes searched beyond those kept: the last ones of a randomised search are blurred


class FusedFeature(nn.Module):
    """One vector of a backbone's two features, on principal axes. *Ours*.

    Each part takes signed square roots (x / sqrt|x|), is centred and scaled to length 1; both
    together are centred and projected to principal axes. The root reduces burstiness (as RootSIFT:
    Arandjelovic & Zisserman, CVPR 2012); the flattened map keeps where in the image something is.
    What is fitted, on train features alone, are buffers: a checkpoint holds them.

    Args:
        parts: length of each part: global feature, flattened feature map
        dims: principal axes kept; those beyond the rank of the train features are zero
    """

    means: Tensor
    centre: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, parts: tuple[int, ...], dims: int = DIMS) -> None:
        super().__init__()
        self.parts, self.dims = parts, dims
        self.register_buffer("means", torch.zeros(sum(parts)))
        self.register_buffer("centre", torch.zeros(sum(parts)))
        self.register_buffer("axes", torch.zeros(sum(parts), dims))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, parts: Tensor) -> None:
        """Fit to train features ``[N, sum(parts)]``, global feature and flat map side by side. They
        are overwritten: they are the largest thing that learning holds.
        """
        blocks = torch.split(parts, FILLED_AT_ONCE)  # share its memory
        for block in blocks:
            block.copy_(_root(block))
        self.means.copy_(parts.mean(0))
        for block in blocks:
            block.copy_(self._centred(block))
        self.centre.copy_(parts.mean(0))
        parts -= self.centre
        rank = min(self.dims, *parts.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the search for the axes starts from random ones
            searched = min(rank + EXTRA, *parts.shape)
            axes = torch.pca_lowrank(parts, q=searched, center=False, niter=2)[2]
        self.axes.zero_()
        self.axes[:, :rank] = axes[:, :rank]
        self.scale.copy_((parts @ self.axes.to(parts.dtype)).std().clamp_min(1e-12))

    def discount_views(self, shown: Tensor, power: float) -> None:
        """Shorten the directions in which an image differs from its own views, in place.

        A direction whose variance within an image's views is w shrinks by ``w^(power / 2)``; then
        the axes are the principal ones again. Linear discriminant analysis (Fisher, 1936) does so;
        here each image is a class. *Ours*.

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
        """``[B, sum(parts)] -> [B, dims]``; entries of train features have a deviation of 1."""
        return torch.cat([self.project(block) for block in torch.split(parts, ROWS_AT_ONCE)])

    def project(self, parts: Tensor) -> Tensor:
        """The same in one piece: what a traced graph needs, whose number of rows is open."""
        return self._on_axes(self._fuse(parts)) / self.scale

    def _fuse(self, parts: Tensor) -> Tensor:
        return self._centred(_root(parts))

    def _centred(self, roots: Tensor) -> Tensor:
        """Both parts of roots centred and at length 1, and so both together."""
        split = torch.split(roots - self.means, list(self.parts), dim=1)
        return normalize(torch.cat([normalize(part, dim=1) for part in split], dim=1), dim=1)

    def _on_axes(self, fused: Tensor) -> Tensor:
        centred = fused - self.centre
        return centred @ self.axes.to(centred.dtype)


def side_by_side(global_feature: Tensor, feature_map: Tensor | None) -> Tensor:
    """``[B, D]`` and ``[B, C, g, g]`` as float32 ``[B, D + C g g]``; ``[B, D]`` without a map."""
    if feature_map is None:
        return global_feature.float()
    return torch.cat([global_feature.float(), feature_map.float().flatten(1)], dim=1)


def _root(parts: Tensor) -> Tensor:
    """Signed square root; a line near 0, where the root's own slope is infinite."""
    values = parts.float()
    return values / values.abs().clamp_min(1e-6).sqrt()


def fit_fused(
    stored: Arrays, with_map: bool, dims: int, view_discount: float
) -> tuple[FusedFeature, Tensor, Tensor]:
    """Fit the fused feature to train features and, where there are views, discount them.

    Args:
        stored: ``global_feature [N, D]``, ``feature_map [N, C, g, g]`` and, where there are views,
            ``views [N, V, D]`` and ``view_maps [N, V, C, g, g]``
        with_map: fuse the feature map too
        dims: principal axes kept
        view_discount: power of :meth:`FusedFeature.discount_views`; 0 for none

    Returns:
        the fitted feature; float16 ``[N, dims]``, the train images before the discount; float16
        ``[N, 1 + V, dims]``, the train images and their views after it
    """
    feature, feature_map = stored["global_feature"], stored["feature_map"]
    map_dim = feature_map[0].size if with_map else 0
    fusion = FusedFeature((feature.shape[1], map_dim) if map_dim else (feature.shape[1],), dims)
    used = feature_map if with_map else None
    fusion.fit(parts_of(feature, used, sample_rows(len(feature), FIT_ROWS)))
    views = stored["views"].shape[1] if "views" in stored else 0
    shown = torch.empty(len(feature), 1 + views, dims, dtype=torch.float16)
    shown[:, 0] = fused_rows(fusion, feature, feature_map)
    for view in range(views):
        arrays = stored["views"][:, view], stored["view_maps"][:, view]
        shown[:, 1 + view] = fused_rows(fusion, *arrays)
    plain = shown[:, 0].clone()
    if views and view_discount:
        fusion.discount_views(shown, view_discount)
    return fusion, plain, shown


def fused_rows(
    fusion: FusedFeature, feature: NDArray[np.float16], feature_map: NDArray[np.float16]
) -> Tensor:
    """Fused features, float16 ``[N, dims]``, of ``[N, D]`` and ``[N, C, g, g]``.

    Block by block, so that the float32 parts are never all there at once.
    """
    used = feature_map if len(fusion.parts) > 1 else None
    fused = torch.empty(len(feature), fusion.dims, dtype=torch.float16)  # results of single blocks,
    for start in range(0, len(feature), ROWS_AT_ONCE):  # kept, would fragment the memory
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(feature)))
        fused[start : start + ROWS_AT_ONCE] = fusion(parts_of(feature, used, rows))
    return fused


def parts_of(
    feature: NDArray[np.floating[Any]],
    feature_map: NDArray[np.floating[Any]] | None,
    rows: NDArray[np.int64],
) -> Tensor:
    """:func:`side_by_side` of some rows of ``[N, D]`` and ``[N, C, g, g]``, which may lie on the
    disk: float32 ``[n, D + C g g]``, the only copy of that size.
    """
    width = feature.shape[1] + (0 if feature_map is None else feature_map[0].size)
    parts = torch.empty(len(rows), width)
    for block, some in zip(
        torch.split(parts, FILLED_AT_ONCE),
        np.split(rows, range(FILLED_AT_ONCE, len(rows), FILLED_AT_ONCE)),
        strict=True,
    ):
        maps = None if feature_map is None else torch.from_numpy(feature_map[some])
        block.copy_(side_by_side(torch.from_numpy(feature[some]), maps))
    return parts


@dataclass(frozen=True)
class PresentedFeature:
    """How :func:`fit_presented` fits; `udmsh-plus` has the same values by default."""

    dims: int = DIMS
    view_discount: float = 1.0


def fit_presented(stored: Arrays, settings: PresentedFeature) -> dict[str, Tensor]:
    """``fusion.*``, buffers of a fused feature, and ``shown``, float16 ``[N, 1 + V, dims]``."""
    fusion, _, shown = fit_fused(stored, True, settings.dims, settings.view_discount)
    return {**fusion.state_dict(prefix="fusion."), "shown": shown}


def present_fused(stored: Arrays, train: bool, state: dict[str, Tensor]) -> Arrays:
    """Arrays whose global features, and those of views, are fused ones.

    The backbone's D numbers become the fused ``dims`` numbers and zeros behind them, so that any
    method takes them. The feature map stays.

    Args:
        stored: of a split, as :func:`fit_fused` takes them
        train: the rows are those that the feature was fitted to
        state: of :func:`fit_presented`
    """
    dim = stored["global_feature"].shape[1]
    if train:
        rows = state["shown"]
    else:
        parts = (dim, stored["feature_map"][0].size)
        fusion = FusedFeature(parts, state["fusion.axes"].shape[1])
        fusion.load_state_dict({name: state[f"fusion.{name}"] for name in fusion.state_dict()})
        rows = fused_rows(fusion, stored["global_feature"], stored["feature_map"])[:, None]
    wide = nn.functional.pad(rows, (0, dim - rows.shape[2])).numpy()  # [N, 1 + V, D]
    views = {"views": wide[:, 1:]} if "views" in stored else {}
    return {**stored, "global_feature": wide[:, 0], **views}
