"""What GreedyHash and Bi-half Net share: codes whose cosines match those of the frozen backbone's
features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from udmsh_pl.baselines.functional import cosine_matching_loss, train_features
from udmsh_pl.features.store import Batch
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.encoder import Branches

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule


@dataclass(eq=False, kw_only=True, repr=False)
class CosineMatching(HashingModule):
    """:func:`cosine_matching_loss` between codes and features; subclasses say how outputs become
    codes.

    Args:
        branches: ``global`` as in the papers, ``dual`` or ``spatial``
        centre: subtract the train mean from the features (*ours*; the papers do not). Where
            uncentred features are much alike, codes that are nearly constant match them best
    """

    branches: Branches = "global"
    centre: bool = False

    if TYPE_CHECKING:  # a buffer; as a plain annotation it would become an argument
        mean: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("mean", torch.zeros(self.backbone_info.global_dim))

    def fit_teacher(self, datamodule: "RetrievalDataModule") -> dict[str, Tensor]:
        """Find the train mean where it is to be subtracted."""
        return {"mean": train_features(datamodule).float().mean(0)} if self.centre else {}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the mean."""
        if state:
            self.mean.copy_(state["mean"])

    def matching(self, codes: Tensor, batch: Batch) -> Tensor:
        """The loss of codes ``[B, K]`` of the global batch, whose part in this process is
        ``batch``.
        """
        return cosine_matching_loss(codes, self.gather(batch["global_feature"] - self.mean))
