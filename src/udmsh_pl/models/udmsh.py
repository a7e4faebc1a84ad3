"""UDMSH as read from its abstract, every *read* part open to configuration."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.losses import (
    Isometry,
    best_rotation,
    bit_balance_loss,
    decorrelation_loss,
    isometric_loss,
    multilevel_pairwise_loss,
)
from udmsh_pl.models.base import HashingModule
from udmsh_pl.structure import Levels, SemanticStructure

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule

Teacher = Literal["global", "spatial", "both"]


@dataclass(eq=False, kw_only=True, repr=False)
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

    teacher: Teacher = "both"
    root: bool = True
    alpha: float = 2.0
    beta: float = 2.0
    levels: Levels = "graded"
    confidence: bool = False
    centre: bool = True
    structure_sample: int | None = 20_000
    isometry: Isometry = "pairwise"
    isometry_weight: float = 0.1
    balance_weight: float = 0.0
    decorrelation_weight: float = 0.0

    if TYPE_CHECKING:  # a buffer; as a plain annotation it would become an argument
        rotation: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        spatial = self.backbone_info.map_channels * self.grid**2
        dims = {"global": [self.backbone_info.global_dim], "spatial": [spatial]}
        dims["both"] = dims["global"] + dims["spatial"]
        self.structure = SemanticStructure(
            dims[self.teacher],
            self.alpha,
            self.beta,
            self.levels,
            self.confidence,
            self.centre,
            self.structure_sample,
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

    def teacher_features(self, batch: Batch) -> Tensor:
        """Teacher features ``[B, D']`` of cached ``global_feature`` and ``feature_map`` (flattened:
        layout counts).
        """
        parts = []
        if self.teacher != "spatial":
            parts.append(batch["global_feature"].float())
        if self.teacher != "global":
            parts.append(batch["feature_map"].float().flatten(1))
        features = torch.cat(parts, dim=1)
        return features.sign() * features.abs().sqrt() if self.root else features

    def fit_teacher(self, datamodule: "RetrievalDataModule") -> dict[str, Tensor]:
        """Fit the mean and the two half-Gaussians on the train split."""
        settings = (self.teacher, self.root, self.centre, self.structure_sample)
        state, self.histogram = datamodule.once(
            ("udmsh", *settings), lambda: self._fit(datamodule.features("train"))
        )
        return state

    def _fit(self, stored: Arrays) -> tuple[dict[str, Tensor], Tensor]:
        rows = sample_rows(len(stored["global_feature"]), self.structure_sample)
        batch = {
            name: torch.from_numpy(stored[name][rows]) for name in ("global_feature", "feature_map")
        }
        histogram = self.structure.cpu().fit(self.teacher_features(batch))
        return dict(self.structure.state_dict()), histogram

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure."""
        self.structure.load_state_dict(state)
        self.structure.to(self.device)

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``, turned by the isometric rotation where there is
        one.
        """
        u = super().forward(batch)
        return u @ self.rotation if self.isometry == "rotation" and not self.training else u

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
                u, self.isometry, self.rotation
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
            rotation = best_rotation(torch.cat(self._epoch_u))
            self.rotation.copy_(self.trainer.strategy.broadcast(rotation))
            self._epoch_u.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the relaxed codes of an unfinished epoch (isometry ``rotation``)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_u"] = self._epoch_u

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the relaxed codes of the unfinished epoch."""
        super().on_load_checkpoint(checkpoint)
        self._epoch_u = list(checkpoint.get("epoch_u", ()))
