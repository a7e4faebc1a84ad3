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
    official unsupervised code: the loss of :class:`CosineMatching` + ``0.1 mean | |h| - 1 |^3``.

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
