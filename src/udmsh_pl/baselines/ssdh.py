"""SSDH: hard pseudo-labels from two half-Gaussians (Yang et al., IJCAI 2018)."""

from dataclasses import dataclass

from torch import Tensor

from udmsh_pl.baselines.deep import DeepHash, global_features
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.similarity.structure import SemanticStructure


@dataclass(frozen=True)
class HalfGaussianSettings:
    """What decides the fitted half-Gaussians, beside the train features; see :class:`SSDH`."""

    centre: bool
    structure_sample: int | None


def fit_half_gaussians(stored: Arrays, settings: HalfGaussianSettings) -> dict[str, Tensor]:
    """Buffers of the :class:`SemanticStructure` of the train features."""
    features, sample = global_features(stored), settings.structure_sample
    structure = SemanticStructure([features.shape[1]], centre=settings.centre, sample=sample)
    structure.fit(features)
    return dict(structure.state_dict())


def ssdh_loss(u: Tensor, similarity: Tensor) -> Tensor:
    """``(1/B^2) sum_ij |S_ij| (u_i.u_j / K - S_ij)^2``, also i = j, u ``[B, K]``, S ``[B, B]``."""
    similarity = similarity.to(u.dtype)
    return (similarity.abs() * (u @ u.T / u.shape[1] - similarity).square()).mean()


@dataclass(kw_only=True, eq=False, repr=False)
class SSDH(DeepHash):
    """Semantic structure-based unsupervised deep hashing.

    *Stated*: two half-Gaussians, surely similar and surely dissimilar pairs, a pairwise loss.
    *Read* in the official code: S is +1 below ``m - 2 sigma_left``, -1 above ``m + 2 sigma_right``,
    0 between, on cosine distances of uncentred fc7 after ReLU; :func:`ssdh_loss`. That code trains
    all of VGG16 by Adam with **eps = 1.0**, learning rate 1e-3, batch 24, 10 epochs, and puts the
    mode at the left edge of the fullest of 100 bars on [0, 1]. *Ours*: a frozen backbone
    (``finetune: true`` trains it), AdamW with its usual eps, and the mode in the middle of the bar.

    Args:
        alpha: surely similar below ``m - alpha sigma_left``
        beta: surely dissimilar above ``m + beta sigma_right``
        centre: subtract the train mean from the features (*ours*; the paper does not)
        structure_sample: rows for the structure's fit on larger train sets; None for all
    """

    alpha: float = 2.0
    beta: float = 2.0
    centre: bool = False
    structure_sample: int | None = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        dims = [self.backbone_info.global_dim]
        self.structure = SemanticStructure(dims, self.alpha, self.beta, "hard", centre=self.centre)

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """The two half-Gaussians of the train split."""
        settings = HalfGaussianSettings(self.centre, self.structure_sample)
        return features.teacher("ssdh", settings, fit_half_gaussians)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure, in the precision that it was fitted in."""
        self.structure.load_fitted(state)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """:func:`ssdh_loss` over the global batch."""
        distances = self.structure.distances(batch["global_feature"])
        return {"pairwise": ssdh_loss(self(batch), self.structure.similarity(distances))}
