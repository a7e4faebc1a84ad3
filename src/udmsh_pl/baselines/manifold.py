"""Cosine and manifold neighbour lists of a train set, held as one threshold a row instead of an N x N array."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError

BLOCK = 20_000_000  # numbers of a block of rows that are alive at once
ROUNDING = 1e-5  # thresholds are lowered by this share, since a batch's products round differently
WEAKEST = 1e-4  # cosines below are no edges, as in the official code; scores below this share of the mean are zero


def fit_manifold(
    features: Tensor,
    cosine_share: float = 0.06,
    manifold_share: float = 0.09,
    damping: float = 0.99,
    rank: int = 256,
    max_edges: int = 1000,
) -> dict[str, Tensor]:
    """Neighbour lists of each row by cosine and by manifold ranking.

    Manifold ranking (Zhou et al., NIPS 2003) orders by ``(I - a A)^-1 = I + sum_k a l_k / (1 - a l_k) v_k v_k'`` with l, v the
    eigenpairs of ``A = D^-1/2 W D^-1/2``; W holds the cosines of mutual cosine neighbours. With fewer eigenpairs than rows
    the leading ones are taken, which weigh most (cf. Iscen et al., CVPR 2018).

    Args:
        features: float [N, D]
        cosine_share: the cosine list of a row holds its ``int(N * cosine_share)`` nearest others
        manifold_share: the manifold list holds the ``int(N * manifold_share)`` best, the row itself included
        damping: a
        rank: eigenpairs; exact when at least N
        max_edges: neighbours of a row in the graph, where a list is longer

    Returns:
        ``cosine_above`` and ``score_above`` float [N], the least value in a row's list; ``listed`` bool [N], rows with a mutual
        neighbour; ``vectors`` float [N, rank] and ``gains`` float [rank], so that ``vectors * gains @ vectors.T`` ranks.

    Raises:
        InputError: the lists would be empty, or longer than the train set.
    """
    count = len(features)
    near, reach = int(count * cosine_share), int(count * manifold_share)
    if not (1 <= near < count and 1 <= reach <= count and 0 < damping < 1 and rank >= 1 and max_edges >= 1):
        raise InputError(
            f"{count} train images with cosine_share {cosine_share}, manifold_share {manifold_share}, damping {damping}, rank "
            f"{rank}, max_edges {max_edges} give no lists; shares and damping lie in (0, 1), a list holds at least one image"
        )
    unit = normalize(features.float(), dim=1)
    edges = min(near, max_edges)
    cosine_above, columns, weights = torch.empty(count), np.empty((count, edges), np.int32), np.empty((count, edges))
    for rows in _blocks(count):
        cosine = unit[rows] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(rows.start, rows.stop)] = -torch.inf
        best = cosine.topk(near)
        cosine_above[rows] = best.values[:, -1]
        columns[rows], weights[rows] = best.indices[:, :edges].numpy(), best.values[:, :edges].numpy()
    gains, vectors, listed = _eigenpairs(columns, weights, damping, rank)
    score_above = torch.empty(count)
    for rows in _blocks(count):
        score = vectors[rows] * gains @ vectors.T
        score[torch.arange(len(score)), torch.arange(rows.start, rows.stop)] += 1
        score[:, ~listed] = -torch.inf
        score_above[rows] = score.topk(reach).values[:, -1]
    return {
        "cosine_above": cosine_above - ROUNDING * cosine_above.abs(),
        "score_above": score_above.clamp_min(WEAKEST * float(gains.max()) / count) * (1 - ROUNDING),
        "listed": listed,
        "vectors": vectors,
        "gains": gains,
    }


def _eigenpairs(columns: NDArray[Any], weights: NDArray[Any], damping: float, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gains ``[rank]``, vectors ``[N, rank]`` and rows with an edge, bool ``[N]``, of the graph of mutual neighbours."""
    count, edges = columns.shape
    kept = np.where(weights > WEAKEST, weights, 0)
    directed = csr_matrix((kept.ravel(), columns.ravel(), np.arange(0, count * edges + 1, edges)), shape=(count, count))
    mutual = directed.minimum(directed.T)
    degree = np.asarray(mutual.sum(1)).ravel()
    root = diags(np.where(degree > 0, degree, np.inf) ** -0.5)
    graph = root @ mutual @ root
    if rank >= count:
        values, vectors = np.linalg.eigh(graph.toarray())
    else:
        values, vectors = eigsh(graph, k=rank, which="LA", v0=np.random.default_rng(0).random(count))
    gains = damping * values / (1 - damping * values)
    return torch.from_numpy(gains).float(), torch.from_numpy(vectors.copy()).float(), torch.from_numpy(degree > 0)


def _blocks(count: int) -> list[slice]:
    size = max(BLOCK // count, 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
