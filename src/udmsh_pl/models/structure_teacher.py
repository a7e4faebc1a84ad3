"""What UDMSH's semantic structure is fitted on: cosine distances of features, or those and two
levels of distances along the graph of neighbours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.models.linear_path import fit_path
from udmsh_pl.models.manifold_teacher import NEAR_RANK, ManifoldSettings, fit_manifold_teacher
from udmsh_pl.models.options import Branches
from udmsh_pl.similarity.structure import SemanticStructure

Teacher = Literal["global", "spatial", "both"]
Kind = Literal["cosine", "manifold"]
ROW = ManifoldSettings.rank + NEAR_RANK + ManifoldSettings.dims  # numbers of a row, at most


@dataclass(frozen=True)
class StructureSettings:
    """What decides the fitted structure, beside the train features; see :class:`UDMSH`."""

    teacher: Teacher
    root: bool
    centre: bool
    structure_sample: int | None
    near_share: float
    path: Branches | None = None


def teacher_features(batch: Batch, teacher: Teacher, root: bool) -> Tensor:
    """Teacher features float32 ``[B, D']`` of cached ``global_feature`` and ``feature_map``
    (flattened: layout counts).
    """
    parts = []
    if teacher != "spatial":
        parts.append(batch["global_feature"].float())
    if teacher != "global":
        parts.append(batch["feature_map"].float().flatten(1))
    features = torch.cat(parts, dim=1)
    return features.sign() * features.abs().sqrt() if root else features


def fit_structure(stored: Arrays, settings: StructureSettings) -> dict[str, Tensor]:
    """Buffers of the :class:`SemanticStructure` of train features, and ``histogram``, int64
    [20000], of their distances.
    """
    rows = sample_rows(len(stored["global_feature"]), settings.structure_sample)
    batch = {
        name: torch.from_numpy(stored[name][rows]) for name in ("global_feature", "feature_map")
    }
    dims = teacher_dims(
        settings.teacher, batch["global_feature"].shape[1], batch["feature_map"][0].numel()
    )
    structure = SemanticStructure(dims, centre=settings.centre, sample=settings.structure_sample)
    histogram = structure.fit(teacher_features(batch, settings.teacher, settings.root))
    return {**structure.state_dict(), "histogram": histogram}


def teacher_dims(teacher: Teacher, global_dim: int, map_dim: int) -> list[int]:
    """Lengths of the teacher's features, whose cosine distances are averaged."""
    return {"global": [global_dim], "spatial": [map_dim], "both": [global_dim, map_dim]}[teacher]


def fit_manifold_structure(stored: Arrays, settings: StructureSettings) -> dict[str, Tensor]:
    """:func:`fit_structure` on three levels of similarity, and ``rows``, float16 [N, ROW], what
    :func:`levelled` makes rows of whose inner products they are.

    The levels are those of UDMSH-plus (:func:`fit_manifold_teacher`): the cosine after a long
    diffusion over the graph of neighbours says who is of the same group, that after a short one and
    the cosine of the fused features (rooted, centred, on principal axes) who is nearest. With a
    ``path``, also what :func:`udmsh_pl.models.linear_path.fit_path` gives of those branches.
    """
    clean = {name: stored[name] for name in ("global_feature", "feature_map")}
    with_map = settings.teacher == "both"
    levels = ManifoldSettings(with_map=with_map, near_share=settings.near_share)
    state = fit_manifold_teacher(clean, levels)
    fused = normalize(state["inputs"][:, 0].float(), dim=1)
    rows = torch.cat([fused, state["targets"]], dim=1)
    rows = pad(rows, (0, ROW - rows.shape[1])).half()  # few images have fewer eigenvectors
    sample = torch.from_numpy(sample_rows(len(rows), settings.structure_sample))
    structure = SemanticStructure([ROW], centre=False)
    histogram = structure.fit(levelled(rows[sample], settings.near_share))
    fitted = {**structure.state_dict(), "histogram": histogram, "rows": rows}
    if settings.path is None:
        return fitted
    if settings.path == ("dual" if with_map else "global"):  # fused already
        path = {name: value for name, value in state.items() if name.startswith("fusion.")}
        return fitted | path | {"inputs": state["inputs"][:, 0].clone()}
    return fitted | fit_path(clean, settings.path)


def levelled(rows: Tensor, near_share: float) -> Tensor:
    """Rows ``[B, ROW]`` of :func:`fit_manifold_structure` with their fused features at the share of
    the cosine.
    """
    fused, diffused = rows[:, : ManifoldSettings.dims], rows[:, ManifoldSettings.dims :]
    return torch.cat([fused * (near_share / 2) ** 0.5, diffused], dim=1)
