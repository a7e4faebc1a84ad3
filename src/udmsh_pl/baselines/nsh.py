"""NSH: codes sort latents, and learn from what the sorted list says (Yu et al., IJCAI 2022)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from udmsh_pl.baselines.deep import TwoViewHash, straight_through_sign, two_views
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch


def soft_sort(values: Tensor, temperature: float) -> Tensor:
    """SoftSort (Prillo & Eisenschlos, ICML 2020) of each row, falling: row-stochastic
    ``[B, n, n]`` of float ``[B, n]``; entry (i, r, j) says how much value j is the r-th of row i.
    """
    ordered = values.sort(dim=1, descending=True).values  # [B, n]
    return (-(ordered[:, :, None] - values[:, None, :]).abs() / temperature).softmax(2)


def sorted_nce_loss(scores: Tensor, positives: int) -> Tensor:
    """Mean over i and r < m of ``-log(e^s_ir / (e^s_ir + sum_(k >= m) e^s_ik))``: of scores float
    ``[B, n]``, in the order of the list, the first m are positives and the rest negatives. An
    InputError says that one of both is missing.
    """
    if not 0 < positives < scores.shape[1]:
        mend = "give --model.positives a number from 1 to the batch size less one"
        raise InputError(f"{positives} positives in a batch of {scores.shape[1]}; {mend}")
    head = scores[:, :positives]
    rest = scores[:, positives:].logsumexp(1, keepdim=True)
    return (torch.logaddexp(head, rest) - head).mean()


@dataclass(kw_only=True, eq=False, repr=False)
class NSH(TwoViewHash):
    """Naturally-sorted hashing; needs ``data.views`` of at least 2.

    For each first view, the second views of the batch are sorted by the likeness of codes,
    ``s_ij = (1 + b_i.b'_j / K) / 2``, softly, and their latents ``z'`` with them; SortedNCE takes
    the head of the list for positives and the rest for negatives of the latent ``z_i``. Codes learn
    through the sorter.

    *Stated* (abstract): Hamming distances are sorted by a differentiable approximation, latent
    representations are gathered accordingly, SortedNCE picks positives and negatives from the list,
    and hash and latent head are trained together. *Read*: SoftSort on s; the second view as what is
    sorted; a mean over the positives, each against all negatives. *Ours*: both temperatures, the
    number of positives, the latent head (a hidden layer, ``latent`` outputs of length 1) on the
    frozen global feature, AdamW. The official code was not available to us.

    Args:
        latent: length of a latent representation
        positives: how many images from the head of a list are positives
        temperature: divides the cosines of latents
        sort_temperature: of SoftSort, in units of s
    """

    latent: int = 64
    positives: int = 4
    temperature: float = 0.3
    sort_temperature: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        dim = self.backbone_info.global_dim
        self.latent_head = nn.Sequential(
            nn.Linear(dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.latent)
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The latent head was ``latent`` until 0.2."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("latent.")]:
            state[name.replace("latent", "latent_head", 1)] = state.pop(name)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """SortedNCE over the global batch."""
        codes, latents = [], []
        for seen in two_views(batch):
            codes.append(straight_through_sign(self.logits(seen)))
            latents.append(normalize(self.latent_head(seen["global_feature"].float())))
        alike = (1 + codes[0] @ codes[1].T / self.bits) / 2  # [B, B]
        order = soft_sort(alike, self.sort_temperature)  # [B, B, B]
        cosines = latents[0] @ latents[1].T / self.temperature
        # the product of z_i with the sorted latents, without making B lists of them
        scores = torch.einsum("irj,ij->ir", order, cosines)
        return {"sorted_nce": sorted_nce_loss(scores, self.positives)}
