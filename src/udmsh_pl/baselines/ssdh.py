"""SSDH: hard pseudo-labels from two half-Gaussians (Yang et al., IJCAI 2018)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from udmsh_pl.baselines.functional import train_features
from udmsh_pl.features.store import Batch
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.encoder import Branches
from udmsh_pl.structure import SemanticStructure

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule


def ssdh_loss(u: Tensor, similarity: Tensor) -> Tensor:
    """``(1/B^2) sum_ij |S_ij| (u_i.u_j / K - S_ij)^2``, the diagonal included.

    Args:
        u: float [B, K], relaxed codes
        similarity: float [B, B], S in {-1, 0, +1}
    """
    similarity = similarity.to(u.dtype)
    return (similarity.abs() * (u @ u.T / u.shape[1] - similarity).square()).mean()


@dataclass(eq=False, kw_only=True, repr=False)
class SSDH(HashingModule):
    """Semantic structure-based unsupervised deep hashing.

    *Stated*: two half-Gaussians, surely similar and surely dissimilar pairs, a pairwise loss.
    *Read* in the official code: S is +1 below ``m - 2 sigma_left``, -1 above ``m + 2 sigma_right``,
    0 between, on cosine distances of uncentred fc7 after ReLU; :func:`ssdh_loss`. That code trains
    all of VGG16 by Adam with **eps = 1.0**, learning rate 1e-3, batch 24, 10 epochs, and puts the
    mode at the left edge of the fullest of 100 bars on [0, 1]. *Ours*: a frozen backbone (``finetune:
    true`` trains it), AdamW with its usual eps, and the mode in the middle of the bar.

    Args:
        branches: ``global`` as in the paper, ``dual`` or ``spatial``
        alpha: surely similar below ``m - alpha sigma_left``
        beta: surely dissimilar above ``m + beta sigma_right``
        centre: subtract the train mean from the features (*ours*; the paper does not)
        structure_sample: rows for the structure's fit on larger train sets; None for all
    """

    branches: Branches = "global"
    alpha: float = 2.0
    beta: float = 2.0
    centre: bool = False
    structure_sample: int | None = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.structure = SemanticStructure(
            dims=[self.backbone_info.global_dim],
            alpha=self.alpha,
            beta=self.beta,
            levels="hard",
            centre=self.centre,
            sample=self.structure_sample,
        )

    def fit_teacher(self, datamodule: "RetrievalDataModule") -> dict[str, Tensor]:
        """Fit the two half-Gaussians on the train split."""
        return datamodule.once(
            ("ssdh", self.centre, self.structure_sample),
            lambda: self._fit(train_features(datamodule)),
        )

    def _fit(self, features: Tensor) -> dict[str, Tensor]:
        self.structure.cpu().fit(features)
        return dict(self.structure.state_dict())

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure."""
        self.structure.load_state_dict(state)
        self.structure.to(self.device)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """:func:`ssdh_loss` over the global batch."""
        distances = self.structure.distances(self.gather(batch["global_feature"]))
        return {
            "pairwise": ssdh_loss(self.gather(self(batch)), self.structure.similarity(distances))
        }
