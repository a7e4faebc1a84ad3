"""UDMSH as read from its abstract (Qin et al., IEEE TCSVT 31(7), 2021), the whole method in one file.

| the abstract says (*stated*) | here (the form is *read*) |
|---|---|
| a dual-branch network: CNN and FCN, global and spatial features, learned jointly | the encoder, :class:`udmsh_pl.models.heads.DualBranchEncoder` |
| semantic structure: cosine distances of deep features | :func:`structure_features`, :func:`fit_structure` |
| multi-level similarity | :meth:`UDMSH.teach` |
| a multi-level pairwise loss | :meth:`UDMSH.objective`, ``pairwise`` |
| the correct fine-grained similarity ranking | :meth:`UDMSH.objective`, ``ranking`` |
| a Hamming-isometric mapping that lowers the quantisation error | :meth:`UDMSH.objective`, ``isometry`` |
"""  # noqa: E501

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.similarity.losses import (
    Isometry,
    best_rotation,
    isometric_loss,
    multilevel_pairwise_loss,
    ranking_loss,
)
from udmsh_pl.similarity.structure import Levels, SemanticStructure

Teacher = Literal["global", "spatial", "both"]

# the codes' temperature in the ranking, times sqrt(K): about the random spread of a cosine of K
# bits, so that short codes need no finer differences (docs/choices.md)
BLUR = 1.1


@dataclass(frozen=True)
class StructureSettings:
    """Settings of the fitted structure; see :class:`UDMSH`."""

    teacher: Teacher
    centre: bool
    structure_sample: int | None


def structure_features(arrays: Batch, teacher: Teacher) -> list[Tensor]:
    """The features whose cosine distances are the structure, each float32 ``[B, D']``: the global
    feature, the flattened map, or both.
    """
    names = {"global": ["global_feature"], "spatial": ["feature_map"]}
    chosen = names.get(teacher, ["global_feature", "feature_map"])
    return [arrays[name].float().flatten(1) for name in chosen]


def structure_dims(teacher: Teacher, global_dim: int, map_dim: int) -> list[int]:
    """Lengths of those features; with both, their two cosine distances are averaged."""
    return {"global": [global_dim], "spatial": [map_dim], "both": [global_dim, map_dim]}[teacher]


def fit_structure(stored: Arrays, settings: StructureSettings) -> dict[str, Tensor]:
    """Mean and half-Gaussians of the train features' distances, as buffers of the
    :class:`SemanticStructure`, and ``histogram``, int64 [20000], of the distances.
    """
    rows = sample_rows(len(stored["global_feature"]), settings.structure_sample)
    arrays = {
        name: torch.from_numpy(stored[name][rows]) for name in ("global_feature", "feature_map")
    }
    dims = structure_dims(
        settings.teacher, arrays["global_feature"].shape[1], arrays["feature_map"][0].numel()
    )
    structure = SemanticStructure(dims, centre=settings.centre, sample=settings.structure_sample)
    histogram = structure.fit(torch.cat(structure_features(arrays, settings.teacher), dim=1))
    return {**structure.state_dict(), "histogram": histogram}


@dataclass(kw_only=True, eq=False, repr=False)
class UDMSH(HashingModule):
    """Unsupervised Deep Multi-Similarity Hashing with semantic structure: ``L = L_pair + ranking +
    lambda L_iso``.

    *Stated* in the abstract: the parts that the table of this module lists. *Read*: their form.
    Distances, mode and half-Gaussians as SSDH (IJCAI 2018) has them; graded levels between SSDH's
    two thresholds; pairs weighed by their ``|S|`` as in SSDH's code; the ranking by the softmax of
    similarities as in ListNet (Cao et al., ICML 2007); the isometric mapping as the authors' word
    for keeping the similarity of relaxed codes in codes; centred features as in ITQ (CVPR 2011).
    Nothing here is *ours*: manifold, linear path, near images and views belong to
    :class:`udmsh_pl.models.UDMSHPlus`.

    Args:
        teacher: features whose distances are the structure; ``both`` averages the two cosine
            distances
        centre: subtract the train mean from those features
        alpha: pairs nearer than ``m - alpha sigma_left`` are surely similar
        beta: pairs farther than ``m + beta sigma_right`` are surely dissimilar
        levels: ``linear`` (1 - distance: near pairs stay distinct, and images with nothing in
            common get orthogonal codes), ``graded`` (a line between the two thresholds), ``hard``
            (SSDH) or ``cosine`` (1 - 2 distance)
        confidence: weight pairs by CIMON's confidence
        least_weight: a pair weighs this plus the size of its similarity, so that the few near pairs
            count among the many far ones; None for pairs weighed by ``confidence`` alone
        structure_sample: rows for the structure's fit on larger train sets; None for all
        ranking_weight: weight of :func:`udmsh_pl.similarity.losses.ranking_loss` against the
            cosines of the features; larger orders near images better and far ones worse
        isometry: which reading of the Hamming-isometric mapping
        isometry_weight: lambda
    """

    teacher: Teacher = "both"
    centre: bool = True
    alpha: float = 2.0
    beta: float = 2.0
    levels: Levels = "linear"
    confidence: bool = False
    least_weight: float | None = 0.1
    structure_sample: int | None = 20_000
    ranking_weight: float = 0.1
    isometry: Isometry = "pairwise"
    isometry_weight: float = 0.1
    rotation: Tensor = field(init=False)

    former_options: ClassVar[frozenset[str]] = HashingModule.former_options | {
        "structure", "near_share", "root", "linear_path", "balance_weight", "decorrelation_weight",
    }  # fmt: skip

    def __post_init__(self) -> None:
        self.check_range("least_weight", optional=True)
        self.check_range("ranking_weight")
        super().__post_init__()
        map_dim = self.backbone_info.map_channels * self.grid**2
        self.structure = SemanticStructure(
            structure_dims(self.teacher, self.backbone_info.global_dim, map_dim),
            self.alpha,
            self.beta,
            self.levels,
            self.confidence,
            self.centre,
            self.structure_sample,
        )
        self.histogram: Tensor | None = None  # of the train set's distances, for the picture
        self.register_buffer("rotation", torch.eye(self.bits))
        self._epoch_u: list[Tensor] = []  # relaxed codes that the next rotation is solved on

    # semantic structure

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """The mean and the two half-Gaussians of the train split."""
        settings = StructureSettings(self.teacher, self.centre, self.structure_sample)
        return features.teacher("udmsh", settings, fit_structure)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure, in the precision that it was fitted in."""
        self.histogram = state["histogram"]
        self.structure.load_fitted(state)

    def train_rows(self, features: TrainFeatures) -> Rows:
        """The features that the encoder's branches or the structure read."""
        read = {"dual": "both"}.get(self.branches, self.branches), self.teacher
        unread = {"global_feature": ("spatial", "spatial"), "feature_map": ("global", "global")}
        return {
            name: features.arrays[name]
            for name, neither in unread.items()
            if read != neither and name in features.arrays
        }

    def teach(self, batch: Batch) -> Batch:
        """Add ``cosine``, ``similarity`` and ``weight`` of the batch's pairs, each ``[B, B]``."""
        distances = self.structure.distances(structure_features(batch, self.teacher))
        similarity = self.structure.similarity(distances)
        weight = self.structure.weight(distances)
        if self.least_weight is not None:
            weight = weight * (self.least_weight + similarity.abs())
        self.log_mean(
            {
                "similarity/mean": similarity.mean(),
                "similarity/share_similar": (similarity >= 1).float().mean(),
                "similarity/share_dissimilar": (similarity <= -1).float().mean(),
            }
        )
        return batch | {"cosine": 1 - distances, "similarity": similarity, "weight": weight}

    # codes that keep it

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Multi-level pairwise loss, ranking and isometric mapping over the global batch."""
        u = torch.tanh(self.logits(batch))
        terms = {"pairwise": multilevel_pairwise_loss(u, batch["similarity"], batch["weight"])}
        if self.ranking_weight:
            ranking = ranking_loss(u, batch["cosine"], code_temperature=BLUR / self.bits**0.5)
            terms["ranking"] = self.ranking_weight * ranking
        if self.isometry_weight:
            if self.isometry == "rotation":
                self._epoch_u.append(u.detach())
            isometry = isometric_loss(u, self.isometry, self.rotation.to(u.dtype))
            terms["isometry"] = self.isometry_weight * isometry
        self.log_codes(u)
        return terms

    # the isometric mapping as a rotation, solved anew after each epoch

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``; with ``isometry="rotation"`` they are rotated."""
        u = super().forward(batch)
        return u @ self.rotation.to(u.dtype) if self.isometry == "rotation" else u

    def on_after_backward(self) -> None:
        """Solve the rotation anew on the epoch's relaxed codes, before validation uses it."""
        if self._epoch_u and self.trainer.is_last_batch:
            here = [u.to(self.device) for u in self._epoch_u]  # resumed on the CPU
            rotation = best_rotation(torch.cat(here))
            # not copied into the buffer, which may be bfloat16
            self.rotation = self.trainer.strategy.broadcast(rotation).to(self.device)
            self._epoch_u.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the relaxed codes of an unfinished epoch."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_u"] = self._epoch_u

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the relaxed codes of the unfinished epoch."""
        super().on_load_checkpoint(checkpoint)
        self._epoch_u = list(checkpoint.get("epoch_u", ()))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}encoder.direct.weight" in state:
            raise InputError(
                "this checkpoint has the linear path of udmsh-pl 0.2, which udmsh no longer has;"
                " train it anew (udmsh fit --model UDMSH), or use udmsh-pl 0.2 for this file"
            )
        super()._load_from_state_dict(state, prefix, *others)
