"""CIBHash: contrastive codes under an information bottleneck (Qiu et al., IJCAI 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from udmsh_pl.baselines.deep import TwoViewHash, straight_through_sign, two_views
from udmsh_pl.features.store import Batch
from udmsh_pl.similarity.losses import nt_xent_loss


def bernoulli_kl(logits: Tensor, other: Tensor) -> Tensor:
    """``mean_i sum_k KL(Bernoulli(sigmoid(logits_ik)) || Bernoulli(sigmoid(other_ik)))`` of two
    float ``[B, K]``; no gradient through ``other``.
    """
    other = other.detach()
    on = logits.sigmoid() * (logsigmoid(logits) - logsigmoid(other))
    off = (-logits).sigmoid() * (logsigmoid(-logits) - logsigmoid(-other))
    return (on + off).sum(1).mean()


@dataclass(kw_only=True, eq=False, repr=False)
class CIBHash(TwoViewHash):
    """Two random views of an image get the same code; needs ``data.views`` of at least 2.

    ``NT-Xent(z, z'; tau) + weight (KL(p || p') + KL(p' || p)) / 2`` with ``p = sigmoid(logits)``
    and ``z`` in {-1, +1}.

    *Stated*: the contrastive loss on Bernoulli codes with a straight-through gradient, and the
    bottleneck's bound by the KL divergence of the two views. *Read* in the official code:
    ``z = sign(p - 0.5)`` in place of a sample, the second argument of each KL detached, tau = 0.3,
    weight = 0.001, a frozen VGG16 and an encoder 4096-1024-K, Adam 1e-3, batch 64: our setup but
    for the backbone. *Ours*: the views are drawn beforehand, ``data.views`` of each image.

    Args:
        temperature: tau
        bottleneck_weight: weight of the KL divergences
        sample: draw z from Bernoulli(p), as the paper's equations do, instead of thresholding
    """

    temperature: float = 0.3
    bottleneck_weight: float = 0.001
    sample: bool = False

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent and bottleneck over the global batch of both views."""
        first, second = map(self.logits, two_views(batch))
        divergence = (bernoulli_kl(first, second) + bernoulli_kl(second, first)) / 2
        codes = self.binarise(first), self.binarise(second)
        return {
            "contrastive": nt_xent_loss(*codes, self.temperature),
            "bottleneck": self.bottleneck_weight * divergence,
        }

    def binarise(self, logits: Tensor) -> Tensor:
        """Logits ``[B, K]`` -> codes in {-1, +1}, whose gradient passes to the probabilities."""
        probabilities = logits.sigmoid()
        threshold = torch.rand_like(probabilities) if self.sample else 0.5
        return straight_through_sign(probabilities - threshold)
