"""What methods that train an encoder share: views, the train mean, signs and matched cosines."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.models.base import HashingModule, view
from udmsh_pl.models.heads import Branches


@dataclass(kw_only=True, eq=False, repr=False)
class DeepHash(HashingModule):
    """A comparison method that trains an encoder.

    Args:
        branches: ``global`` as in most papers, ``dual`` or ``spatial``
    """

    branches: Branches = "global"


@dataclass(kw_only=True, eq=False, repr=False)
class TwoViewHash(DeepHash):
    """A method that trains on two random views of each image, seen by a frozen backbone."""

    def __post_init__(self) -> None:
        if self.finetune:
            mend = "give --model.finetune false"
            raise InputError(f"{type(self).__name__} trains on views of a frozen backbone; {mend}")
        super().__post_init__()

    def train_rows(self, features: TrainFeatures) -> Rows:
        """The views alone."""
        return self.view_rows(features)


@dataclass(kw_only=True, eq=False, repr=False)
class CentredHash(DeepHash):
    """A method that subtracts the train mean from global features."""

    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("mean", torch.zeros(self.backbone_info.global_dim))

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Find the train mean."""
        return {"mean": global_features(features.arrays).float().mean(0)}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the mean."""
        if state:
            self.mean.copy_(state["mean"])


@dataclass(kw_only=True, eq=False, repr=False)
class CosineMatching(CentredHash):
    """``mean_(i<j) (cos(b_i, b_j) - cos(f_i, f_j))^2``; subclasses make codes b of the output h.

    *Read* in the official codes of GreedyHash and Bi-half Net: h is linear (no tanh), f the frozen
    VGG16's fc7, uncentred; one linear layer on f, SGD 1e-4 with momentum, batch 32, pairs of the
    first half of a batch with the second. *Ours*: all pairs, which have the same expectation and
    less variance, AdamW, and the encoder's hidden layer before h.

    Args:
        centre: subtract the train mean from the features (*ours*; the papers do not). Where
            uncentred features are much alike, codes that are nearly constant match them best
    """

    centre: bool = False

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Find the train mean where it is to be subtracted."""
        return super().fit_teacher(features) if self.centre else {}

    def matching(self, codes: Tensor, batch: Batch) -> Tensor:
        """The loss of codes ``[B, K]`` of the batch."""
        return cosine_matching_loss(codes, batch["global_feature"] - self.mean)


def global_features(stored: Arrays) -> Tensor:
    """The frozen backbone's global features, float16 ``[N, D]``, in memory."""
    return torch.from_numpy(np.array(stored["global_feature"]))


def two_views(batch: Batch) -> tuple[Batch, Batch]:
    """The batch as seen through the first and through the second random view of each image."""
    return view(batch, 0), view(batch, 1)


def sign(values: Tensor) -> Tensor:
    """Signs of the same shape and dtype, with sign(0) = +1 as in a code; no gradient."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


def straight_through_sign(values: Tensor) -> Tensor:
    """:func:`sign` forward, the identity backward (Bengio et al., 2013; GreedyHash's layer)."""
    return sign(values) + (values - values.detach())


def pair_cosines(values: Tensor) -> Tensor:
    """Cosines of rows i < j, float ``[B (B - 1) / 2]``, of float ``[B, D]``; refuses a B of 1."""
    if len(values) < 2:
        mend = "give --data.batch_size a number of at least 2"
        raise InputError(f"a batch of one image has no pairs to compare; {mend}")
    unit = normalize(values, dim=1)
    first, second = torch.triu_indices(len(values), len(values), offset=1, device=values.device)
    return (unit @ unit.T)[first, second]


def cosine_matching_loss(codes: Tensor, features: Tensor) -> Tensor:
    """The loss of :class:`CosineMatching`, of codes ``[B, K]`` and features ``[B, D]``."""
    return (pair_cosines(codes) - pair_cosines(features.to(codes.dtype))).square().mean()
