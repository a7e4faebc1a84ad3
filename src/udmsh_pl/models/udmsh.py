"""UDMSH as read from its abstract, every *read* part open to configuration."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.losses import (
    Isometry,
    best_rotation,
    bit_balance_loss,
    decorrelation_loss,
    isometric_loss,
    multilevel_pairwise_loss,
)
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.options import ModelOptions
from udmsh_pl.structure import Levels, SemanticStructure

Teacher = Literal["global", "spatial", "both"]


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


class UDMSH(HashingModule):
    """Unsupervised Deep Multi-Similarity Hashing with semantic structure (Qin et al., IEEE TCSVT
    2021).

    ``L = L_pair + lambda * L_iso``. *Stated* in the abstract: dual branches, cosine distances of
    deep features as semantic structure, a multi-level pairwise loss, a Hamming-isometric mapping.
    *Read*: the form of each.

    Args:
        teacher: features whose distances are the structure; ``both`` averages the two cosine
            distances
        root: take the signed square root of the teacher's features, which tames channels that burst
            (*ours*)
        alpha: pairs nearer than ``m - alpha sigma_left`` are surely similar
        beta: pairs farther than ``m + beta sigma_right`` are surely dissimilar
        levels: ``graded``, ``hard`` (SSDH) or ``cosine``
        confidence: weight pairs by CIMON's confidence
        centre: subtract the train mean from the teacher's features
        structure_sample: rows for the structure's fit on larger train sets; None for all
        isometry: which reading of the Hamming-isometric mapping
        isometry_weight: lambda
        balance_weight: weight of the bit balance (*ours*, off)
        decorrelation_weight: weight of the bit decorrelation (*ours*, off)
    """

    rotation: Tensor

    def __init__(
        self,
        *,
        teacher: Teacher = "both",
        root: bool = True,
        alpha: float = 2.0,
        beta: float = 2.0,
        levels: Levels = "graded",
        confidence: bool = False,
        centre: bool = True,
        structure_sample: int | None = 20_000,
        isometry: Isometry = "pairwise",
        isometry_weight: float = 0.1,
        balance_weight: float = 0.0,
        decorrelation_weight: float = 0.0,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(**options)
        self.teacher, self.root = teacher, root
        self.isometry, self.isometry_weight = isometry, isometry_weight
        self.balance_weight, self.decorrelation_weight = balance_weight, decorrelation_weight
        dims = teacher_dims(
            teacher, self.backbone_info.global_dim, self.backbone_info.map_channels * self.grid**2
        )
        self.structure = SemanticStructure(
            dims, alpha, beta, levels, confidence, centre, structure_sample
        )
        self.histogram: Tensor | None = None  # of the train set's distances, for the picture
        self.register_buffer("rotation", torch.eye(self.bits))
        self._epoch_u: list[Tensor] = []

    @property
    def train_arrays(self) -> tuple[str, ...]:
        """What the encoder's branches and the teacher read."""
        return (
            super().train_arrays if self.teacher == "global" else ("global_feature", "feature_map")
        )

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """The mean and the two half-Gaussians of the train split."""
        structure = self.structure
        settings = StructureSettings(self.teacher, self.root, structure.centre, structure.sample)
        return features.teacher("udmsh", settings, fit_structure)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure, in the precision that it was fitted in."""
        self.histogram = state["histogram"]
        fitted = {name: value.clone() for name, value in state.items() if name != "histogram"}
        self.structure.load_state_dict(fitted, assign=True)
        self.structure.to(self.device)

    def teacher_features(self, batch: Batch) -> Tensor:
        """:func:`teacher_features` of a batch of cached features."""
        return teacher_features(batch, self.teacher, self.root)

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``, turned by the isometric rotation where there is
        one.
        """
        u = super().forward(batch)
        return (
            u @ self.rotation.to(u.dtype)
            if self.isometry == "rotation" and not self.training
            else u
        )

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Multi-level pairwise loss and isometric mapping over the global batch."""
        u = self.gather(self(batch))
        distances = self.structure.distances(self.gather(self.teacher_features(batch)))
        similarity = self.structure.similarity(distances)
        terms = {
            "pairwise": multilevel_pairwise_loss(u, similarity, self.structure.weight(distances))
        }
        if self.isometry_weight:
            if self.isometry == "rotation":
                self._epoch_u.append(u.detach())
            terms["isometry"] = self.isometry_weight * isometric_loss(
                u, self.isometry, self.rotation.to(u.dtype)
            )
        if self.balance_weight:
            terms["balance"] = self.balance_weight * bit_balance_loss(u)
        if self.decorrelation_weight:
            terms["decorrelation"] = self.decorrelation_weight * decorrelation_loss(u)
        self.log_similarity(similarity, u)
        return terms

    def log_similarity(self, similarity: Tensor, u: Tensor) -> None:
        """Log what share of pairs is surely similar or dissimilar, and what the codes are like."""
        values = {
            "similarity/mean": similarity.mean(),
            "similarity/share_similar": (similarity >= 1).float().mean(),
            "similarity/share_dissimilar": (similarity <= -1).float().mean(),
        }
        self.log_mean(values)
        self.log_codes(u)

    def on_after_backward(self) -> None:
        """Solve the rotation anew on the epoch's relaxed codes (isometry ``rotation``), before
        validation uses it.
        """
        if self._epoch_u and self.trainer.is_last_batch:
            here = [u.to(self.device) for u in self._epoch_u]  # resumed on the CPU
            rotation = best_rotation(torch.cat(here))
            # not copied into the buffer, which may be bfloat16
            self.rotation = self.trainer.strategy.broadcast(rotation).to(self.device)
            self._epoch_u.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the relaxed codes of an unfinished epoch (isometry ``rotation``)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_u"] = self._epoch_u

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the relaxed codes of the unfinished epoch."""
        super().on_load_checkpoint(checkpoint)
        self._epoch_u = list(checkpoint.get("epoch_u", ()))
