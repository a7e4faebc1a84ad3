"""SDC: the codes' similarities are spread like a Beta distribution (Ng et al., BMVC 2023)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from udmsh_pl.baselines.deep import DeepHash, pair_cosines, two_views
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.models.heads import BatchNorm
from udmsh_pl.similarity.losses import at_least_float32, nt_xent_loss, quantisation_loss


@lru_cache(maxsize=8)
def beta_quantiles(count: int, shape: float, device: str | torch.device = "cpu") -> Tensor:
    """Quantiles of Beta(shape, shape) at (2i + 1) / (2 count) in [-1, 1], rising, ``[count]``."""
    levels = (2 * np.arange(count) + 1) / (2 * count)
    return torch.from_numpy(2 * betaincinv(shape, shape, levels) - 1).float().to(device)


def calibration_loss(
    outputs: Tensor, features: Tensor, shape: float = 5.0, orthogonal: bool = True
) -> Tensor:
    """``mean |cos(v_i, v_j) - q_r|`` over pairs i < j, r the rank of ``cos(f_i, f_j)`` among all
    pairs (1-Wasserstein), of outputs v ``[B, K]`` before the sign and features f ``[B, D]``.

    Args:
        shape: a = b of the Beta distribution
        orthogonal: raise negative quantiles to 0: unlike images get orthogonal codes, not opposite
            ones
    """
    order = pair_cosines(features.float()).argsort()
    targets = beta_quantiles(len(order), shape, outputs.device).to(outputs.dtype)
    return (pair_cosines(outputs)[order] - (targets.relu() if orthogonal else targets)).abs().mean()


@dataclass(kw_only=True, eq=False, repr=False)
class SDC(DeepHash):
    """Similarity distribution calibration: :func:`calibration_loss` + :func:`quantisation_loss` [+
    NT-Xent of two views].

    *Stated* (abstract): the distribution of code similarities is aligned to a calibration
    distribution with spread over the whole range, such as a Beta. *Read* in the official code:
    Beta(5, 5), L1 after sorting by the features' cosine, negative quantiles raised to 0,
    quantisation weight 1, batch normalisation of the output v, NT-Xent with tau 0.3 and weight 1 in
    the variant with SimCLR (which needs ``data.views`` of at least 2). *Ours*: all pairs of a batch
    (there: B / 2 of them), the calibration on the images themselves also beside views, ReLU in the
    hidden layer (there: GELU, as wide as the feature), AdamW. Which of the *read* parts the paper's
    equations hold is not known to us.

    Args:
        beta: a = b of the Beta distribution
        orthogonal: raise negative quantiles to 0
        quantisation_weight: weight of the quantisation term
        contrastive_weight: weight of NT-Xent; 0 needs no views
        temperature: tau of NT-Xent
    """

    beta: float = 5.0
    orthogonal: bool = True
    quantisation_weight: float = 1.0
    contrastive_weight: float = 0.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise InputError(
                f"the Beta distribution's shape is {self.beta}; give --model.beta a number above 0"
            )
        if self.finetune and self.contrastive_weight:
            mend = "give --model.finetune false or contrastive_weight 0"
            raise InputError(f"SDC with views needs a frozen backbone; {mend}")
        super().__post_init__()
        self.output_norm = BatchNorm(self.bits)

    def logits(self, batch: Batch) -> Tensor:
        """Encoder output v, normalised over the batch, ``[B, K]``."""
        outputs = super().logits(batch)
        return at_least_float32(self.output_norm(outputs.to(self.output_norm.weight.dtype)))

    def train_rows(self, features: TrainFeatures) -> Rows:
        """The images themselves and, for the contrastive term, their views."""
        rows = super().train_rows(features)
        return rows | self.view_rows(features) if self.contrastive_weight else rows

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Calibration, quantisation and, where it has a weight, NT-Xent over the global batch."""
        outputs = self.logits(batch)
        features = batch["global_feature"]
        terms = {
            "calibration": calibration_loss(outputs, features, self.beta, self.orthogonal),
            "quantisation": self.quantisation_weight * quantisation_loss(outputs),
        }
        if self.contrastive_weight:
            first, second = map(self.logits, two_views(batch))
            contrast = nt_xent_loss(first, second, self.temperature)
            terms["contrastive"] = self.contrastive_weight * contrast
        return terms
