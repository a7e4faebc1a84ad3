"""GreedyHash, unsupervised: sign with a straight-through gradient (Su et al., NeurIPS 2018)."""

from dataclasses import dataclass

from torch import Tensor

from udmsh_pl.baselines.deep import CosineMatching, straight_through_sign
from udmsh_pl.features.store import Batch


@dataclass(kw_only=True, eq=False, repr=False)
class GreedyHash(CosineMatching):
    """Codes ``b = sign(h)`` themselves enter the loss; the backward pass takes sign for the
    identity.

    *Stated*: the greedy layer and a penalty on ``||h - sign(h)||_p^p`` with p = 3. *Read* in the
    official unsupervised code: ``mean (cos(b_i, b_j) - cos(f_i, f_j))^2 + 0.1 mean | |h| - 1 |^3``
    with h the linear output (no tanh) and f the frozen VGG16's fc7, uncentred; one linear layer on
    f, SGD 1e-4 with momentum, batch 32, pairs of the two halves of a batch. *Ours*: all pairs,
    AdamW, and the encoder's hidden layer before h.

    The cosine of two equal codes has no gradient. A backbone whose features are much alike can
    start, and stay, with one code for all images; ``batch_norm: true`` and ``centre: true`` mend
    that.

    Args:
        alpha: weight of the penalty
    """

    alpha: float = 0.1

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Cosine matching and penalty over the global batch."""
        h = self.logits(batch)
        return {
            "cosine": self.matching(straight_through_sign(h), batch),
            "penalty": self.alpha * (h.abs() - 1).abs().pow(3).mean(),
        }
