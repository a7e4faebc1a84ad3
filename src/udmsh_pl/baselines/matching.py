"""What GreedyHash and Bi-half Net share: codes whose cosines match those of the frozen backbone's
features.
"""

import torch
from torch import Tensor
from typing_extensions import Unpack

from udmsh_pl.baselines.functional import cosine_matching_loss, global_features
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.options import Branches, TrainingOptions


class MatchingOptions(TrainingOptions, total=False):
    """All options of :class:`CosineMatching`."""

    branches: Branches
    centre: bool


class CosineMatching(HashingModule):
    """:func:`cosine_matching_loss` between codes and features; subclasses say how outputs become
    codes.

    Args:
        branches: ``global`` as in the papers, ``dual`` or ``spatial``
        centre: subtract the train mean from the features (*ours*; the papers do not). Where
            uncentred features are much alike, codes that are nearly constant match them best
    """

    mean: Tensor

    def __init__(
        self,
        *,
        branches: Branches = "global",
        centre: bool = False,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(branches=branches, **options)
        self.centre = centre
        self.register_buffer("mean", torch.zeros(self.backbone_info.global_dim))

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Find the train mean where it is to be subtracted."""
        return {"mean": global_features(features.arrays).float().mean(0)} if self.centre else {}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the mean."""
        if state:
            self.mean.copy_(state["mean"])

    def matching(self, codes: Tensor, batch: Batch) -> Tensor:
        """The loss of codes ``[B, K]`` of the batch."""
        return cosine_matching_loss(codes, batch["global_feature"] - self.mean)
