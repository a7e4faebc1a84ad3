"""What UDMSH's semantic structure is fitted on: cosine distances of features, or those and the
distances along the graph of neighbours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.models.manifold_teacher import ManifoldSettings, fit_manifold_teacher
from udmsh_pl.structure import SemanticStructure

Teacher = Literal["global", "spatial", "both"]
Kind = Literal["cosine", "manifold"]
DIMS, NEIGHBOURS, EDGE_POWER, RANK = 512, 30, 3.0, 128  # as in UDMSHPlus


@dataclass(frozen=True)
class StructureSettings:
    """What decides the fitted structure, beside the train features; see :class:`UDMSH`."""

    teacher: Teacher
    root: bool
    centre: bool
    structure_sample: int | None


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
    """:func:`fit_structure` on the average of two distances, and ``rows``, float16 [N, 640].

    A row holds the fused feature of a train image (rooted, centred, on 512 principal axes) and its
    diffused embedding (:mod:`udmsh_pl.manifold`), both of length 1: the cosine distance says who is
    nearest, the diffused one who is of the same group.
    """
    clean = {name: stored[name] for name in ("global_feature", "feature_map")}
    with_map = settings.teacher == "both"
    graph = ManifoldSettings("manifold", with_map, DIMS, NEIGHBOURS, EDGE_POWER, RANK, None)
    state = fit_manifold_teacher(clean, graph)
    fused, diffused = normalize(state["inputs"][:, 0].float(), dim=1), state["targets"]
    unused = torch.zeros(len(fused), RANK - diffused.shape[1])  # few images have fewer eigenvectors
    rows = torch.cat([fused, diffused, unused], dim=1).half()
    sample = torch.from_numpy(sample_rows(len(rows), settings.structure_sample))
    structure = SemanticStructure([DIMS, RANK], centre=False)
    histogram = structure.fit(rows[sample])
    return {**structure.state_dict(), "histogram": histogram, "rows": rows}
