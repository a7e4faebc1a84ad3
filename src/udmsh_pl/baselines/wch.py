"""WCH: contrast weighted by the likeness of patches (Yu et al., ACCV 2022)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.baselines.deep import TwoViewHash, straight_through_sign, two_views
from udmsh_pl.errors import InputError
from udmsh_pl.features.fused import ROWS_AT_ONCE
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.heads import Branches


def mutual_attention(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Each view's patches as the other one asks for them, ``[B, n, C]`` of ``[B, n, C]``.

    Patch j of the new first view is the mean of the first view's patches, weighted by the softmax
    of their cosines with the second view's patch j; the second view's likewise.
    """
    cosine = normalize(first, dim=2) @ normalize(second, dim=2).transpose(1, 2)  # [B, n, n]
    return cosine.transpose(1, 2).softmax(2) @ first, cosine.softmax(2) @ second


def patch_weights(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """How much second view j is a positive of first view i, float ``[B, B]``, 1 on the diagonal.

    Each patch ``[B, n, C]`` of the first image takes its largest cosine with the second's patches;
    the mean compares the images. A softmax over j with the temperature is divided by its diagonal.
    """
    one, other = normalize(first, dim=2), normalize(second, dim=2)
    alike = torch.einsum("ipc,jqc->ijpq", one, other).amax(3).mean(2)
    shares = (alike / temperature).softmax(1)
    return shares / shares.diagonal()[:, None]


def weighted_contrastive_loss(
    first: Tensor, second: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """``-(1/B) sum_ij w_ij log softmax_j(b_i.b'_j / (K temperature))`` of codes ``[B, K]``."""
    logits = first @ second.T / first.shape[1] / temperature
    return -(weights * logits.log_softmax(1)).sum(1).mean()


@dataclass(kw_only=True, eq=False, repr=False)
class WCH(TwoViewHash):
    """Weighted contrastive hashing; needs ``data.views`` of at least 2 and a feature map.

    *Stated* (abstract): a mutual attention of the two views' patches; similarities of images from
    those of their patches, aggregated; and their distillation into the codes. *Read* in the
    official code: the formulas of :func:`mutual_attention`, :func:`patch_weights` with a
    temperature of 0.2 and :func:`weighted_contrastive_loss` with 0.3; codes by a straight-through
    sign; ``mean_k (mean_i b_ik)^2`` beside it, which balances bits; a ViT-B/16 trained throughout
    by Adam 1e-5 with batches of 32. *Ours*: a frozen backbone, whose ``grid x grid`` positions are
    the patches, so that the weights get no gradient; patches centred, since of channels that are
    never negative all have much in common and weights would hardly differ; the encoder's spatial
    branch as the head; AdamW.

    Args:
        branches: ``spatial`` as in the paper, where the code comes of the patches, or ``dual``
        centre: subtract the train mean from the patches that are compared
        temperature: of the codes' contrast
        weight_temperature: of the weights' softmax
    """

    branches: Branches = "spatial"
    centre: bool = True
    temperature: float = 0.3
    weight_temperature: float = 0.2
    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.branches == "global":
            raise InputError("WCH's codes come of patches; give --model.branches spatial or dual")
        super().__post_init__()
        self.register_buffer("mean", torch.zeros(self.backbone_info.map_channels))

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Find the mean of the train patches."""
        maps = features.arrays["feature_map"]  # [N, C, g, g], in a file
        total = sum(
            np.asarray(maps[start : start + ROWS_AT_ONCE], np.float64).mean((2, 3)).sum(0)
            for start in range(0, len(maps), ROWS_AT_ONCE)
        )
        return {"mean": torch.from_numpy(total / len(maps))}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take it over."""
        if self.centre:
            self.mean.copy_(state["mean"])

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted contrast and balance over the global batch."""
        views = two_views(batch)
        patches = [
            one["feature_map"].float().flatten(2).transpose(1, 2) - self.mean for one in views
        ]
        attended = mutual_attention(*patches)  # [B, n, C] each
        codes = []
        for one, seen in zip(views, attended, strict=True):
            folded = (seen + self.mean).transpose(1, 2).reshape(one["feature_map"].shape)
            logits = self.logits({**one, "feature_map": folded})
            codes.append(straight_through_sign(torch.tanh(logits)))
        weights = patch_weights(*attended, self.weight_temperature)
        return {
            "contrastive": weighted_contrastive_loss(codes[0], codes[1], weights, self.temperature),
            "balance": codes[0].mean(0).square().mean(),
        }
