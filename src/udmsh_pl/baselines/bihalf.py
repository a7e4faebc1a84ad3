"""Bi-half Net: each bit is +1 on exactly half of the batch (Li & van Gemert, AAAI 2021)."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from udmsh_pl.baselines.deep import CosineMatching
from udmsh_pl.features.store import Batch


class BiHalfLayer(torch.autograd.Function):
    """Optimal transport of h to half +1, half -1: a sort per bit; see :func:`bi_half`."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, gamma: float) -> Tensor:
        """The ``B // 2`` largest of each column of ``h [B, K]`` are +1, the rest -1."""
        ranks = h.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
        codes = torch.where(ranks < len(h) // 2, 1.0, -1.0).to(h.dtype)
        ctx.save_for_backward(h, codes)
        ctx.gamma = gamma
        return codes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``g + gamma (h - b) / (B K)``; none for gamma."""
        h, codes = ctx.saved_tensors
        return gradients[0] + ctx.gamma * (h - codes) / h.numel(), None


def bi_half(h: Tensor, gamma: float = 6.0) -> Tensor:
    """Balanced codes in {-1, +1} of ``h [B, K]``; gamma weighs the gradient's pull of h to them."""
    return cast(Tensor, BiHalfLayer.apply(h, gamma))


@dataclass(kw_only=True, eq=False, repr=False)
class BiHalf(CosineMatching):
    """Bi-half Net: :class:`CosineMatching` on codes that carry the most information a bit can.

    *Stated*: codes by optimal transport to the half-half distribution, which is a sort; the
    gradient of :func:`bi_half`. *Read* in the official code: gamma = 6; codes of single images are
    plain signs.

    Args:
        gamma: weight of the transport in the gradient
    """

    gamma: float = 6.0

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Cosine matching over the global batch, which is also what the bits are balanced over."""
        codes = bi_half(self.logits(batch), self.gamma)
        return {"cosine": self.matching(codes, batch)}
