"""Signs with a gradient, cosines of a batch's pairs, and codes whose cosines match the features'
(GreedyHash, Bi-half Net).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.heads import Branches


def sign(values: Tensor) -> Tensor:
    """Signs of the same shape and dtype, with sign(0) = +1 as in a code; no gradient."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


def straight_through_sign(values: Tensor) -> Tensor:
    """:func:`sign` in the forward pass, the identity in the backward pass (Bengio et al., 2013;
    GreedyHash's layer).
    """
    return sign(values) + (values - values.detach())


def pair_cosines(values: Tensor) -> Tensor:
    """Cosines of all pairs of rows i < j, float ``[B (B - 1) / 2]``, of float ``[B, D]``.

    Raises:
        InputError: there is no pair.
    """
    if len(values) < 2:
        raise InputError(
            "a batch of one image has no pairs to compare; give --data.batch_size a number of at "
            "least 2"
        )
    unit = normalize(values, dim=1)
    first, second = torch.triu_indices(len(values), len(values), offset=1, device=values.device)
    return (unit @ unit.T)[first, second]


def cosine_matching_loss(codes: Tensor, features: Tensor) -> Tensor:
    """``mean_(i<j) (cos(b_i, b_j) - cos(f_i, f_j))^2``, as in GreedyHash (NeurIPS 2018) and Bi-half
    Net (AAAI 2021).

    Both official codes pair the first half of a batch with the second; all pairs have the same
    expectation and less variance (*ours*).

    Args:
        codes: float [B, K]
        features: float [B, D], of the frozen backbone
    """
    return (pair_cosines(codes) - pair_cosines(features.to(codes.dtype))).square().mean()


def global_features(stored: Arrays) -> Tensor:
    """The frozen backbone's global features, float16 ``[N, D]``, in memory."""
    return torch.from_numpy(np.array(stored["global_feature"]))


@dataclass(kw_only=True, eq=False, repr=False)
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
    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
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
