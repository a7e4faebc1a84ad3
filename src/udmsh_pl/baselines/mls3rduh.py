"""MLS3RDUH: cosine neighbours, confirmed or refused by the manifold (Tu et al., IJCAI 2020)."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.baselines.deep import DeepHash, global_features
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures

NUMBERS_AT_ONCE = 20_000_000  # of a block of rows that are alive at once
ROUNDING = 1e-5  # thresholds are lowered by this share, since a batch's products round differently
# cosines below are no edges, as in the official code; scores below this share of the mean are zero
WEAKEST = 1e-4


@dataclass(frozen=True)
class ListSettings:
    """What decides the lists of neighbours, beside the train features; see :class:`MLS3RDUH`."""

    cosine_share: float = 0.06
    manifold_share: float = 0.09
    damping: float = 0.99
    rank: int = 256
    max_edges: int = 1000


def fit_manifold(
    stored: Arrays, settings: ListSettings, at_once: int = NUMBERS_AT_ONCE
) -> dict[str, Tensor]:
    """Neighbour lists of each train image by cosine and by manifold ranking.

    Manifold ranking (Zhou et al., NIPS 2003) orders by
    ``(I - a A)^-1 = I + a A + sum_k (a l_k)^2 / (1 - a l_k) v_k v_k'`` with l, v the eigenpairs of
    ``A = D^-1/2 W D^-1/2``; W holds the cosines of mutual cosine neighbours. With fewer eigenpairs
    than images the leading ones are taken (cf. Iscen et al., CVPR 2018): the square makes what is
    left out small.

    An image's cosine list holds its ``int(N * cosine_share)`` nearest others, its manifold list the
    ``int(N * manifold_share)`` best, itself included; an InputError where a list would be empty or
    longer than the train set. ``at_once`` numbers of a block of rows are alive at once.

    Returns:
        What :func:`list_members` needs: ``cosine_above``, ``edge_above`` and ``score_above`` float
        [N], the least value in an image's lists; ``scale`` float [N], ``sqrt(a / degree)``, 0
        without a mutual neighbour; ``vectors`` float [N, rank] and ``gains`` float [rank].
    """
    features, damping = global_features(stored), settings.damping
    count = len(features)
    near, reach = int(count * settings.cosine_share), int(count * settings.manifold_share)
    possible = 1 <= near < count and 1 <= reach <= count and 0 < damping < 1
    if not possible or settings.rank < 1 or settings.max_edges < 1:
        given = ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
        rule = "shares and damping lie in (0, 1), a list holds at least one image"
        raise InputError(f"{count} train images with {given} give no lists; {rule}")
    unit = normalize(features.float(), dim=1)
    edges = min(near, settings.max_edges)
    cosine_above, edge_above, score_above = torch.empty(3, count)
    columns, weights = np.empty((count, edges), np.int32), np.empty((count, edges), np.float32)
    for rows in _blocks(count, at_once):
        cosine = unit[rows] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(rows.start, rows.stop)] = -torch.inf
        best = cosine.topk(near)
        cosine_above[rows], edge_above[rows] = best.values[:, -1], best.values[:, edges - 1]
        columns[rows] = best.indices[:, :edges].numpy()
        weights[rows] = best.values[:, :edges].numpy()
    graph, scale = _graph(columns, weights, damping)
    gains, vectors = _eigenpairs(graph, settings.rank)
    for rows in _blocks(count, at_once):
        score = vectors[rows] * gains @ vectors.T + torch.from_numpy(graph[rows].toarray())
        score[torch.arange(len(score)), torch.arange(rows.start, rows.stop)] += 1
        score[:, scale == 0] = -torch.inf
        score_above[rows] = score.topk(reach).values[:, -1]
    least = WEAKEST / (1 - damping) / count
    return {
        "cosine_above": cosine_above - ROUNDING * cosine_above.abs(),
        "edge_above": (edge_above * (1 - ROUNDING)).clamp_min(WEAKEST),
        "score_above": score_above.clamp_min(least) * (1 - ROUNDING),
        "scale": scale,
        "vectors": vectors,
        "gains": gains,
    }


def list_members(rows: Batch, gains: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Which images of a batch are in an image's cosine list, and in its manifold list: two bool
    ``[B, B]``, the lists' owners as rows.

    ``rows`` holds ``index`` long [B], rows of the train set, and these rows of the output of
    :func:`fit_manifold`; ``gains`` is from there, ``cosine [B, B]`` of the features.
    """
    others = rows["index"] != rows["index"][:, None]
    edge = others & (cosine >= rows["edge_above"][:, None])
    graph = (edge & edge.T) * cosine * rows["scale"] * rows["scale"][:, None]
    score = rows["vectors"] * gains @ rows["vectors"].T + graph
    linked = rows["scale"] > 0  # images with a mutual neighbour
    near = others & (cosine >= rows["cosine_above"][:, None]) & linked & linked[:, None]
    return near, others & (score >= rows["score_above"][:, None])


def _graph(
    columns: NDArray[Any], weights: NDArray[Any], damping: float
) -> tuple[csr_matrix, Tensor]:
    """``a A`` of the mutual neighbours, sparse ``[N, N]``, and ``sqrt(a / degree)``, ``[N]``."""
    count, edges = columns.shape
    kept = np.where(weights > WEAKEST, weights, 0)
    starts = np.arange(0, count * edges + 1, edges)
    directed = csr_matrix((kept.ravel(), columns.ravel(), starts), shape=(count, count))
    mutual = directed.minimum(directed.T)
    degree = np.asarray(mutual.sum(1)).ravel()
    scale = np.sqrt(np.divide(damping, degree, out=np.zeros_like(degree), where=degree > 0))
    return csr_matrix(diags(scale) @ mutual @ diags(scale)), torch.from_numpy(scale).float()


def _eigenpairs(graph: csr_matrix, rank: int) -> tuple[Tensor, Tensor]:
    """``l^2 / (1 - l)`` ``[rank]`` and eigenvectors ``[N, rank]`` of the largest l of ``a A``."""
    count = graph.shape[0]
    if rank >= count:
        values, vectors = np.linalg.eigh(graph.toarray().astype(np.float64))
    else:
        start = np.random.default_rng(0).random(count)
        values, vectors = eigsh(graph, k=rank, which="LA", v0=start)
    gains = values**2 / (1 - values)
    return torch.from_numpy(gains).float(), torch.from_numpy(vectors.copy()).float()


def _blocks(count: int, at_once: int) -> list[slice]:
    size = max(at_once // count, 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def log_cosh_loss(u: Tensor, similarity: Tensor) -> Tensor:
    """``(1/B^2) sum_ij log cosh(u_i.u_j / K - S_ij)``, also i = j; u ``[B, K]``, S ``[B, B]``."""
    return (u @ u.T / u.shape[1] - similarity.to(u.dtype)).cosh().log().mean()


@dataclass(kw_only=True, eq=False, repr=False)
class MLS3RDUH(DeepHash):
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
        cosine_share: share of the train set in a cosine list
        manifold_share: share of the train set in a manifold list
        damping: a
        rank: eigenvectors of the manifold similarity; all, and exact, for train sets up to this
            size
        max_edges: edges an image has at most in the graph
    """

    cosine_share: float = 0.06
    manifold_share: float = 0.09
    damping: float = 0.99
    rank: int = 256
    max_edges: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gains = torch.empty(0)  # of the eigenvectors; encoding does not need them

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Both lists of each train image."""
        settings = ListSettings(
            self.cosine_share, self.manifold_share, self.damping, self.rank, self.max_edges
        )
        return features.teacher("mls3rduh", settings, fit_manifold)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the gains of the eigenvectors."""
        self.gains = state["gains"].to(self.device)

    def train_rows(self, features: TrainFeatures) -> Rows:
        """The features, and each image's thresholds and entries of the eigenvectors."""
        lists = {k: v.numpy() for k, v in self.fit_teacher(features).items() if k != "gains"}
        return super().train_rows(features) | lists

    def similarity(self, batch: Batch) -> Tensor:
        """S float ``[B, B]`` of a train batch."""
        unit = normalize(batch["global_feature"].float(), dim=1)
        cosine = unit @ unit.T
        wide = {name: rows.float() for name, rows in batch.items() if rows.is_floating_point()}
        near, member = list_members(batch | wide, self.gains, cosine)
        both, alone = near & member, near & ~member
        similarity = (2 * cosine - 1).clamp(-1, 1)
        return similarity.masked_fill_(alone | alone.T, -1).masked_fill_(both | both.T, 1)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """:func:`log_cosh_loss` over the global batch."""
        return {"pairwise": log_cosh_loss(self(batch), self.similarity(batch))}
