"""What UDMSH-plus learns from: fused features of the train images, and several levels of how alike
two of them are.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udmsh_pl.features.store import Arrays, sample_rows
from udmsh_pl.models.fusion import FIT_ROWS, ROWS_AT_ONCE, FusedFeature, side_by_side
from udmsh_pl.similarity.manifold import (
    diffused_levels,
    nearest_neighbours,
    neighbour_graph,
    neighbour_trust,
    unit_rows,
)

NEAR_RANK, NEAR_TIME = 256, 2.0  # of the short diffusion (experiments/README.md)
COMPANIONS = 3  # nearest images that a batch may show beside an image


@dataclass(frozen=True)
class ManifoldSettings:
    """What decides fused features and teacher, beside the train features; see
    :class:`UDMSHPlus`.
    """

    teacher: Literal["manifold", "cosine"] = "manifold"
    with_map: bool = True
    dims: int = 512
    neighbours: int = 30
    edge_power: float = 3.0
    rank: int = 128
    diffusion_time: float | None = None
    near_share: float = 0.5
    view_discount: float = 0.0


def fit_manifold_teacher(stored: Arrays, settings: ManifoldSettings) -> dict[str, Tensor]:
    """Fit the fused feature and the levels of similarity to train features.

    Where there are views, directions in which an image differs from its own views count less in the
    fused feature (``view_discount``), and so in who is nearest. The graph that diffusion runs on is
    of the features as they were, which keeps large groups together, unless its lists of neighbours
    are not to be trusted (:func:`udmsh_pl.similarity.manifold.neighbour_trust`): then of what the
    views say.

    Returns:
        ``fusion.*``, buffers of the :class:`FusedFeature`; ``inputs``, float16
        ``[N, 1 + V, dims]``, fused features of the images and their views; ``targets``, float32
        ``[N, R]``, whose inner products are the diffused part of the similarity: the long diffusion
        times ``1 - near_share`` and the short one times ``near_share / 2`` (the rest of it is the
        cosine of ``inputs``); ``nearest``, long ``[N, 3]``, the rows most like each by that cosine.
    """
    feature, feature_map = stored["global_feature"], stored["feature_map"]
    map_dim = feature_map[0].size if settings.with_map else 0
    parts = (feature.shape[1], map_dim) if map_dim else (feature.shape[1],)
    fusion = FusedFeature(parts, settings.dims)
    fusion.fit(_parts(feature, feature_map, sample_rows(len(feature), FIT_ROWS), settings.with_map))
    views = stored["views"].shape[1] if "views" in stored else 0
    shown = torch.empty(len(feature), 1 + views, settings.dims, dtype=torch.float16)
    shown[:, 0] = _fused(fusion, feature, feature_map, settings.with_map)
    for view in range(views):
        arrays = stored["views"][:, view], stored["view_maps"][:, view]
        shown[:, 1 + view] = _fused(fusion, *arrays, settings.with_map)
    unit = near = unit_rows(shown[:, 0].float().numpy())
    if views and settings.view_discount:
        fusion.discount_views(shown, settings.view_discount)
        near = unit_rows(shown[:, 0].float().numpy())
    state = {f"fusion.{name}": value for name, value in fusion.state_dict().items()}
    targets, nearest = _levels(unit, near, settings)
    return state | {
        "inputs": shown,
        "targets": torch.from_numpy(targets),
        "nearest": torch.from_numpy(nearest),
    }


def _levels(
    unit: NDArray[np.float32], near: NDArray[np.float32], settings: ManifoldSettings
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``targets [N, R]`` and ``nearest [N, 3]`` of fused features of length 1."""
    count, share = len(unit), settings.near_share
    k = max(1, min(COMPANIONS, count - 1))  # of two images each has one
    nearest = nearest_neighbours(near, k)[1][:, np.arange(COMPANIONS).clip(max=k - 1)]
    nearest = np.where(nearest >= 0, nearest, np.arange(count)[:, None])
    if settings.teacher == "cosine":
        return near * np.float32((1 - share / 2) ** 0.5), nearest
    trust = neighbour_trust(unit, settings.neighbours)
    if trust < 1:  # a backbone with hubs: what its views say makes the better graph
        unit, trust = near, neighbour_trust(near, settings.neighbours)
    graph = neighbour_graph(unit, settings.neighbours, settings.edge_power)
    far, short = (settings.rank, settings.diffusion_time), (NEAR_RANK, NEAR_TIME)
    shares = [(level, part) for level, part in ((far, 1 - share), (short, share / 2)) if part]
    found = diffused_levels(graph, [level for level, _ in shares], trust)
    weighted = [level * part**0.5 for level, (_, part) in zip(found, shares, strict=True)]
    return np.concatenate(weighted, axis=1).astype(np.float32), nearest


def _parts(
    feature: NDArray[np.float16],
    feature_map: NDArray[np.float16],
    rows: NDArray[np.int64] | slice,
    with_map: bool,
) -> Tensor:
    chosen = torch.from_numpy(np.array(feature_map[rows])) if with_map else None
    return side_by_side(torch.from_numpy(np.array(feature[rows])), chosen)


def _fused(
    fusion: FusedFeature,
    feature: NDArray[np.float16],
    feature_map: NDArray[np.float16],
    with_map: bool,
) -> Tensor:
    """Fused features, float16 [N, dims], block by block, so that the float32 parts are never all
    there at once.
    """
    starts = range(0, len(feature), ROWS_AT_ONCE)
    blocks = (_parts(feature, feature_map, slice(at, at + ROWS_AT_ONCE), with_map) for at in starts)
    return torch.cat([fusion(block).half() for block in blocks])
