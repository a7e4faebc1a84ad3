"""UDTH: triplets from neighbourhoods, an autoencoder and quantisation, read from an abstract."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from udmsh_pl.baselines.deep import CentredHash
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.similarity.losses import isometric_loss


def pseudo_triplets(features: Tensor, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Rows of each image's positives, long ``[B, P]``, and negatives, long ``[B, Q]``: the nearest
    and the farthest shares of a batch ``[B, D]`` by the cosine, at least one each. An InputError
    says that the batch is too small for both.
    """
    count = len(features)
    positives, negatives = max(1, round(near * count)), max(1, round(far * count))
    if positives + negatives >= count:
        raise InputError(
            f"{positives} positives and {negatives} negatives of an image need a batch of more "
            f"than {positives + negatives}, this one has {count}; give --data.batch_size more, or "
            "--model.near and --model.far less"
        )
    unit = normalize(features.float(), dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    order = cosine.argsort(dim=1, descending=True)  # the image itself comes last
    return order[:, :positives], order[:, count - 1 - negatives : count - 1]


def triplet_loss(u: Tensor, near: Tensor, far: Tensor, margin: float) -> Tensor:
    """Mean over i, p of its near and n of its far ones of ``max(0, margin - s_ip + s_in)``, where
    ``s_ij = u_i.u_j / K`` in [-1, 1], of u float ``[B, K]``, near long ``[B, P]``, far ``[B, Q]``.
    """
    products = u @ u.T / u.shape[1]
    positive, negative = products.gather(1, near), products.gather(1, far)
    return (margin - positive[:, :, None] + negative[:, None, :]).relu().mean()


@dataclass(kw_only=True, eq=False, repr=False)
class UDTH(CentredHash):
    """Unsupervised deep triplet hashing, from the abstract of Gu et al., "Unsupervised deep triplet
    hashing with pseudo triplets for scalable image retrieval" (Multimedia Tools and Applications,
    2019).

    *Stated* (abstract): pseudo triplets of the neighbourhood structure of visual features; a
    triplet loss that drives binary representations of different classes apart; an autoencoder and
    binary quantisation that keep the structure of the samples. *Read*, all of the form: the batch's
    nearest and farthest images by the frozen feature's cosine; a hinge on inner products of relaxed
    codes; a linear decoder from them to the feature of length 1, by its squared error;
    ``mean (|u| - 1)^2``. *Ours*: features less their train mean, since a decoder of others is best
    served, at first, by one code for all images, where the hinge has no slope.

    Args:
        near: share of a batch that is an image's positives
        far: share of a batch that is an image's negatives
        margin: of the hinge
        decoding_weight: weight of the decoder's error
        quantisation_weight: weight of the quantisation
    """

    near: float = 0.05
    far: float = 0.5
    margin: float = 0.5
    decoding_weight: float = 1.0
    quantisation_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.near <= 0 or self.far <= 0 or self.near + self.far >= 1:
            mend = "give --model.near and --model.far shares above 0, of less than 1 together"
            raise InputError(f"near is {self.near} and far is {self.far}; {mend}")
        super().__post_init__()
        self.decoder = nn.Linear(self.bits, self.backbone_info.global_dim)
        for parameter in self.decoder.parameters():  # one that starts wrong would outweigh triplets
            nn.init.zeros_(parameter)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Triplets over the global batch, decoding and quantisation."""
        u = self(batch)
        centred = batch["global_feature"].float() - self.mean
        decoded = self.decoder(u.to(self.decoder.weight.dtype)).float()
        error = (decoded - normalize(centred, dim=1)).square().sum(1).mean()
        triplets = pseudo_triplets(centred, self.near, self.far)
        return {
            "triplet": triplet_loss(u, *triplets, self.margin),
            "decoding": self.decoding_weight * error,
            "quantisation": self.quantisation_weight * isometric_loss(u, "pointwise"),
        }
