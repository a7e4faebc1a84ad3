"""MLS3RDUH: cosine neighbours, confirmed or refused by the data manifold (Tu et al., IJCAI
2020).
"""

from dataclasses import asdict, dataclass

from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import Unpack

from udmsh_pl.baselines.functional import global_features
from udmsh_pl.baselines.manifold_ranking import fit_manifold, list_members
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.options import Branches, TrainingOptions


@dataclass(frozen=True)
class ListSettings:
    """What decides the lists of neighbours, beside the train features; see :class:`MLS3RDUH`."""

    cosine_share: float
    manifold_share: float
    damping: float
    rank: int
    max_edges: int


def fit_lists(stored: Arrays, settings: ListSettings) -> dict[str, Tensor]:
    """Both lists of each train image (see :func:`fit_manifold`)."""
    return fit_manifold(global_features(stored), **asdict(settings))


def log_cosh_loss(u: Tensor, similarity: Tensor) -> Tensor:
    """``(1/B^2) sum_ij log cosh(u_i.u_j / K - S_ij)``, the diagonal included, for u ``[B, K]`` and
    S ``[B, B]``.
    """
    return (u @ u.T / u.shape[1] - similarity.to(u.dtype)).cosh().log().mean()


class MLS3RDUH(HashingModule):
    """Deep unsupervised hashing via manifold based local semantic similarity structure
    reconstructing.

    S_ij is +1 where j is in i's cosine list and in i's manifold list, -1 where it is in the cosine
    list alone, else ``2 cos - 1``; a claim of either i or j counts, +1 before -1. Loss:
    :func:`log_cosh_loss`.

    *Stated*: the manifold reconstructs the local similarity structure, and the loss is log cosh.
    *Read* in the official code: lists of 6 % and 9 % of the train set, manifold similarity
    ``(1 - a)(I - a A)^-1`` with a = 0.99 on the graph of mutual neighbours, uncentred features, SGD
    0.04 through all of AlexNet or VGG16 with a tanh layer, batch 128. *Ours*: a frozen backbone,
    AdamW, and for more than ``rank`` images the manifold similarity from the ``rank`` leading
    eigenvectors of A; a graph of at most ``max_edges`` neighbours an image, which only matters
    above ``max_edges / 0.06`` images; images without a mutual neighbour keep ``2 cos - 1``. No N x
    N array is ever held: a list is a threshold a row, and a batch's B x B block is decided against
    the thresholds.

    Args:
        branches: ``global`` as in the paper, ``dual`` or ``spatial``
        cosine_share: share of the train set in a cosine list
        manifold_share: share of the train set in a manifold list
        damping: a
        rank: eigenvectors of the manifold similarity; all, and exact, for train sets up to this
            size
        max_edges: edges an image has at most in the graph
    """

    def __init__(
        self,
        *,
        branches: Branches = "global",
        cosine_share: float = 0.06,
        manifold_share: float = 0.09,
        damping: float = 0.99,
        rank: int = 256,
        max_edges: int = 1000,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(branches=branches, **options)
        self.lists = ListSettings(cosine_share, manifold_share, damping, rank, max_edges)
        self.manifold: dict[str, Tensor] = {}  # of the train set

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Both lists of each train image."""
        return features.teacher("mls3rduh", self.lists, fit_lists)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the lists; a checkpoint does not hold them, since encoding does not need
        them.
        """
        self.manifold = {name: values.to(self.device) for name, values in state.items()}

    def similarity(self, index: Tensor, features: Tensor) -> Tensor:
        """S float ``[B, B]`` of train rows ``index`` long [B] with backbone features float
        ``[B, D]``.
        """
        unit = normalize(features.float(), dim=1)
        cosine = unit @ unit.T
        near, member = list_members(self.manifold, index, cosine)
        both, alone = near & member, near & ~member
        similarity = (2 * cosine - 1).clamp(-1, 1)
        return similarity.masked_fill_(alone | alone.T, -1).masked_fill_(both | both.T, 1)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """:func:`log_cosh_loss` over the global batch."""
        similarity = self.similarity(batch["index"], batch["global_feature"])
        return {"pairwise": log_cosh_loss(self(batch), similarity)}
