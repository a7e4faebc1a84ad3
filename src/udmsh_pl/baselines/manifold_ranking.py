"""Cosine and manifold neighbour lists of a train set, held as one threshold a row instead of an N x
N array.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.errors import InputError

NUMBERS_AT_ONCE = 20_000_000  # of a block of rows that are alive at once
ROUNDING = 1e-5  # thresholds are lowered by this share, since a batch's products round differently
# cosines below are no edges, as in the official code; scores below this share of the mean are zero
WEAKEST = 1e-4


def fit_manifold(
    features: Tensor,
    cosine_share: float = 0.06,
    manifold_share: float = 0.09,
    damping: float = 0.99,
    rank: int = 256,
    max_edges: int = 1000,
) -> dict[str, Tensor]:
    """Neighbour lists of each row by cosine and by manifold ranking.

    Manifold ranking (Zhou et al., NIPS 2003) orders by
    ``(I - a A)^-1 = I + a A + sum_k (a l_k)^2 / (1 - a l_k) v_k v_k'`` with l, v the eigenpairs of
    ``A = D^-1/2 W D^-1/2``; W holds the cosines of mutual cosine neighbours. With fewer eigenpairs
    than rows the leading ones are taken (cf. Iscen et al., CVPR 2018): the square makes what is
    left out small.

    Args:
        features: float [N, D]
        cosine_share: the cosine list of a row holds its ``int(N * cosine_share)`` nearest others
        manifold_share: the manifold list holds the ``int(N * manifold_share)`` best, the row itself
            included
        damping: a
        rank: eigenpairs; exact when at least N
        max_edges: neighbours of a row in the graph, where a list is longer

    Returns:
        What :func:`list_members` needs: ``cosine_above``, ``edge_above`` and ``score_above`` float
        [N], the least value in a row's lists; ``scale`` float [N], ``sqrt(a / degree)``, 0 without
        a mutual neighbour; ``vectors`` float [N, rank] and ``gains`` float [rank].

    Raises:
        InputError: the lists would be empty, or longer than the train set.
    """
    count = len(features)
    near, reach = int(count * cosine_share), int(count * manifold_share)
    if not (
        1 <= near < count
        and 1 <= reach <= count
        and 0 < damping < 1
        and rank >= 1
        and max_edges >= 1
    ):
        raise InputError(
            f"{count} train images with cosine_share {cosine_share}, manifold_share "
            f"{manifold_share}, damping {damping}, rank "
            f"{rank}, max_edges {max_edges} give no lists; shares and damping lie in (0, 1), a "
            "list holds at least one image"
        )
    unit = normalize(features.float(), dim=1)
    edges = min(near, max_edges)
    cosine_above, edge_above, score_above = torch.empty(3, count)
    columns, weights = np.empty((count, edges), np.int32), np.empty((count, edges), np.float32)
    for rows in _blocks(count):
        cosine = unit[rows] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(rows.start, rows.stop)] = -torch.inf
        best = cosine.topk(near)
        cosine_above[rows], edge_above[rows] = best.values[:, -1], best.values[:, edges - 1]
        columns[rows], weights[rows] = (
            best.indices[:, :edges].numpy(),
            best.values[:, :edges].numpy(),
        )
    graph, scale = _graph(columns, weights, damping)
    gains, vectors = _eigenpairs(graph, rank)
    for rows in _blocks(count):
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


def list_members(state: dict[str, Tensor], index: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Who of a batch is in whose cosine list, and in whose manifold list: two bool ``[B, B]``, the
    lists' owners as rows.

    Args:
        state: from :func:`fit_manifold`, on the device of the batch
        index: long [B], rows of the train set
        cosine: float [B, B], of their features
    """
    rows = {name: values[index] for name, values in state.items() if name != "gains"}
    others = index != index[:, None]
    edge = others & (cosine >= rows["edge_above"][:, None])
    graph = (edge & edge.T) * cosine * rows["scale"] * rows["scale"][:, None]
    score = rows["vectors"] * state["gains"] @ rows["vectors"].T + graph
    near = (
        others
        & (cosine >= rows["cosine_above"][:, None])
        & (rows["scale"] > 0)
        & (rows["scale"] > 0)[:, None]
    )
    return near, others & (score >= rows["score_above"][:, None])


def _graph(
    columns: NDArray[Any], weights: NDArray[Any], damping: float
) -> tuple[csr_matrix, Tensor]:
    """``a A`` of the mutual neighbours, sparse ``[N, N]``, and ``sqrt(a / degree)``, float
    ``[N]``.
    """
    count, edges = columns.shape
    kept = np.where(weights > WEAKEST, weights, 0)
    directed = csr_matrix(
        (kept.ravel(), columns.ravel(), np.arange(0, count * edges + 1, edges)),
        shape=(count, count),
    )
    mutual = directed.minimum(directed.T)
    degree = np.asarray(mutual.sum(1)).ravel()
    scale = np.sqrt(np.divide(damping, degree, out=np.zeros_like(degree), where=degree > 0))
    return csr_matrix(diags(scale) @ mutual @ diags(scale)), torch.from_numpy(scale).float()


def _eigenpairs(graph: csr_matrix, rank: int) -> tuple[Tensor, Tensor]:
    """``l^2 / (1 - l)`` ``[rank]`` and eigenvectors ``[N, rank]`` of the largest eigenvalues l of
    ``a A``.
    """
    count = graph.shape[0]
    if rank >= count:
        values, vectors = np.linalg.eigh(graph.toarray().astype(np.float64))
    else:
        values, vectors = eigsh(
            graph, k=rank, which="LA", v0=np.random.default_rng(0).random(count)
        )
    return torch.from_numpy(values**2 / (1 - values)).float(), torch.from_numpy(
        vectors.copy()
    ).float()


def _blocks(count: int) -> list[slice]:
    size = max(NUMBERS_AT_ONCE // count, 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
