"""Manifold teacher: how alike two images are after heat has spread over a graph of neighbours.

*Ours*, in the spirit of MLS3RDUH's manifold (Tu et al., IJCAI 2020) and of diffusion for retrieval
(Donoser & Bischof, CVPR 2013). The graph is sparse and the diffusion is cut to its leading
eigenvectors. Up to ``EXACT_UP_TO`` images neighbours are exact and eigenvectors Lanczos's; beyond,
both are approximate, and time and memory grow with N (:mod:`udmsh_pl.similarity.neighbours`,
:mod:`udmsh_pl.similarity.spectrum`).

Letters in shapes: N images, D numbers of a feature, k neighbours, P pieces of the graph that no
edge connects, n images of one piece, R = rank.
"""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from udmsh_pl.similarity.neighbours import neighbours_by_cell
from udmsh_pl.similarity.spectrum import SPARE, leading_eigenpairs

Float32s = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

EXACT_UP_TO = 100_000  # rows; an exact search costs N^2 dot products, 40 s here at 50,000 x 512
SPREAD, HALFWAY, SHORTEST = 18.0, 64, 2.0  # see diffused_embedding
TRUST_ROWS, DOUBTED, TRUSTED = 1800, 0.44, 0.53  # see neighbour_trust
LARGE_RANK = 128  # beyond EXACT_UP_TO: a block of 300 vectors of a million rows would take 6 GB
ISOLATED = 1e-6  # weight of a row's edge to itself, so that a row without neighbours keeps a degree


def unit_rows(values: NDArray[np.floating[Any]]) -> Float32s:
    """Rows of ``values [N, D]`` scaled to length 1; rows of zeros stay zeros.

    Example:
        >>> unit_rows(np.array([[0.0, 2.0], [-0.5, 0.0], [0.0, 0.0]])).tolist()
        [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]
    """
    norms = np.linalg.norm(values, axis=1, keepdims=True)  # [N, 1]
    return np.asarray(values / norms.clip(1e-12), dtype=np.float32)


def nearest_neighbours(
    unit: Float32s, k: int, exact_up_to: int = EXACT_UP_TO
) -> tuple[Float32s, NDArray[np.int64]]:
    """Cosines and rows of the k nearest other rows of each row of ``unit [N, D]``; both ``[N, k]``.

    Exact up to ``exact_up_to`` rows; beyond,
    :func:`udmsh_pl.similarity.neighbours.neighbours_by_cell`. -1 stands where no row was found.

    Example:
        >>> unit = unit_rows(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]))
        >>> cosines, rows = nearest_neighbours(unit, k=1)
        >>> rows.tolist(), bool((cosines > 0.99).all())
        ([[1], [0], [3], [2]], True)
    """
    count, dim = unit.shape
    unit = np.ascontiguousarray(unit)
    if count > exact_up_to:
        return neighbours_by_cell(unit, k)
    index = faiss.IndexFlatIP(dim)
    index.add(unit)
    cosines, rows = index.search(unit, k + 1)  # [N, k + 1], the row itself among them
    other = rows != np.arange(count)[:, None]  # [N, k + 1]
    # a row that k copies of itself pushed out of its own list: drop the last one instead
    other[:, -1] &= ~other.all(1)
    return cosines[other].reshape(count, k), rows[other].reshape(count, k)


def neighbour_graph(
    features: Float32s, k: int = 30, power: float = 3.0, exact_up_to: int = EXACT_UP_TO
) -> sparse.csr_matrix:
    """Normalised graph ``D^-1/2 W D^-1/2`` over the rows of ``features [N, D]``.

    Float64 [N, N] with about 1.5 N k entries.

    ``W = (A + A') / 2`` with ``A_ij = max(cos(i, j), 0)^power`` for the k nearest neighbours j of
    i.

    Args:
        features: float [N, D], centred
        k: neighbours of a row; at most a quarter of the rows
        power: how fast an edge weakens with distance
        exact_up_to: rows; see :func:`nearest_neighbours`

    Example:
        >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbour_graph(features, k=1).toarray().round(2).tolist()  # two pairs
        [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    unit = unit_rows(features)
    cosines, rows = nearest_neighbours(unit, max(1, min(k, len(unit) // 4)), exact_up_to)  # [N, k]
    del unit  # as large as the features
    count, k = rows.shape
    weights = np.where(rows >= 0, np.maximum(cosines, 0).astype(np.float64) ** power, 0.0)
    ends = (np.repeat(np.arange(count), k), np.maximum(rows, 0).ravel())  # [N k] each
    edges = sparse.csr_matrix((weights.ravel(), ends), shape=(count, count))
    edges = (edges + edges.T) / 2 + ISOLATED * sparse.identity(count)
    scale = sparse.diags(np.asarray(edges.sum(1)).ravel() ** -0.5)  # D^-1/2
    return (scale @ edges @ scale).tocsr()


def neighbour_trust(unit: Float32s, k: int = 30) -> float:
    """How far lists of neighbours can be trusted, from 0 to 1, without labels.

    Features that say little of what images show have hubs, which are in everybody's list and have
    few of those in their own, and heat that flows through hubs mixes all groups. So we take the
    share of k-nearest pairs that are reciprocal: from 53 % on the lists have full trust, below 44 %
    none. Counted among at most 1,800 rows, drawn with a fixed seed, since the share falls with
    their number. *Ours*: on drawings it is 70 % for EfficientNet-Lite0, whose features diffusion
    improves, and 43 % for a vision transformer trained for saliency, whose features it spoils.

    Args:
        unit: float [N, D], rows of length 1
        k: neighbours of a row; at most a quarter of the rows

    Example:
        >>> draw = np.random.default_rng(0).standard_normal((200, 2))
        >>> neighbour_trust(unit_rows(draw), k=5)  # points on a circle have no hubs
        1.0
    """
    drawn = np.random.default_rng(0).permutation(len(unit))[:TRUST_ROWS]
    k = max(1, min(k, len(drawn) // 4))
    rows = nearest_neighbours(unit[np.sort(drawn)], k)[1]
    ends = (np.repeat(np.arange(len(drawn)), k), rows.ravel())
    listed = sparse.csr_matrix((np.ones(rows.size, np.float32), ends), shape=2 * (len(drawn),))
    mutual = float(listed.multiply(listed.T).sum()) / rows.size
    return min(max((mutual - DOUBTED) / (TRUSTED - DOUBTED), 0.0), 1.0)


def diffused_embedding(
    graph: sparse.csr_matrix, rank: int = 128, time: float | None = None,
    exact_up_to: int = EXACT_UP_TO,
) -> Float32s:  # fmt: skip
    """Unit vectors ``[N, rank]`` whose cosines say how alike images are after heat has flowed.

    Row i holds the i-th entries of the graph's leading eigenvectors, each weighted by ``exp(-time
    (1 - eigenvalue))``; the trivial first one, the root of the degrees, is left out. The inner
    product of two such rows is the heat that flows between the images in ``2 time``.

    A graph of many small groups has many eigenvalues near 1, and heat that flows for long would
    blur them. So by default the time is ``18 (1 - eigenvalue number 64)``: 5 on 3,154 drawings of
    69 kinds, 7 on 9,000 images of CIFAR-10, 5 on 50,000 of them, 10 on 1,800 scenes of five labels;
    and at least 2, where groups lie wholly apart. 18 and 64 were chosen by retrieval
    (docs/choices.md).

    Args:
        graph: from :func:`neighbour_graph`
        rank: eigenvectors kept; at most a quarter of the rows
        time: how far the heat flows; more blurs small groups into larger ones; None for the rule
            above
        exact_up_to: rows; beyond, eigenvectors are approximate

    Example:
        Two half circles of 20 images each, in planes of their own. The ends of one of them are
        opposite (cosine -1), and at right angles to the other (cosine 0); along the graph it is the
        ends of one that are alike:

        >>> angle = np.linspace(0, np.pi, 20)
        >>> features = np.kron(np.eye(2), np.column_stack([np.cos(angle), np.sin(angle)]))
        >>> unit = diffused_embedding(neighbour_graph(features, k=2), rank=2, time=100)
        >>> bool(unit[0] @ unit[19] > 0 > unit[0] @ unit[20])
        True
    """
    return diffused_levels(graph, [(rank, time)], exact_up_to=exact_up_to)[0]


def diffused_levels(
    graph: sparse.csr_matrix, levels: Sequence[tuple[int, float | None]], trust: float = 1.0,
    exact_up_to: int = EXACT_UP_TO,
) -> list[Float32s]:  # fmt: skip
    """:func:`diffused_embedding` for several pairs of rank and time, from one set of eigenvectors.

    After a long time images of one group are alike, after a short one only the nearest are.
    ``trust`` (:func:`neighbour_trust`) shortens the times of the rule, but not below 2.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(40, 8))
        >>> values = noise + 3 * np.eye(8)[np.arange(40) % 2]
        >>> graph = neighbour_graph(values, k=5)
        >>> far, near = diffused_levels(graph, [(4, 20.0), (8, 1.0)])
        >>> far.shape, near.shape, float((far[0] @ far[2]).round(2))  # of one group
        ((40, 4), (40, 8), 1.0)
    """
    most = max(1, graph.shape[0] // 4)
    if graph.shape[0] > exact_up_to:
        most = min(most, LARGE_RANK)
    most = min(max(rank for rank, _ in levels), most)
    values, vectors = _leading(graph, most, exact_up_to)  # [R], [N, R]
    found = []
    for wanted, time in levels:
        rank = max(1, min(wanted, len(values)))
        gaps = 1 - values[:rank]
        if time is None:
            time = max(trust * SPREAD * float(gaps[min(HALFWAY, rank) - 1]), SHORTEST)
        found.append(unit_rows(vectors[:, :rank] * np.exp(-time * gaps).astype(vectors.dtype)))
    return found


def group_count(levels: Floats) -> float:
    """How many groups of equal size would give the mean squared similarity of these images.

    ``(mean_i S_ii)^2 / mean_ij S_ij^2`` with ``S_ij`` the inner product of rows i and j: the number
    of groups where S is 1 within a group and 0 between groups. *Ours*: with levels of a long
    diffusion it is 5 on the scenes (5 labels), 9 on CIFAR-10 small (10 classes), 12 on the sample
    (10 classes) and 37 on the drawings (69 kinds).

    Args:
        levels: float [N, R], as from :func:`diffused_embedding`

    Example:
        >>> round(group_count(np.eye(3)[[0, 0, 1, 1, 2, 2]]), 2)
        3.0
    """
    products = levels.T @ levels  # [R, R] has the same squares as [N, N]
    own, squares = np.trace(products) / len(levels), np.square(products).sum() / len(levels) ** 2
    return float(own**2 / squares)


def _leading(
    graph: sparse.csr_matrix, rank: int, exact_up_to: int
) -> tuple[NDArray[np.float64], Floats]:
    """The ``rank`` largest eigenvalues, falling, and their vectors ``[N, rank]``.

    The trivial eigenvector is left out.

    Each connected component has an eigenvalue 1, and an iteration from one start vector finds only
    one of them. So each component is solved alone; the vectors of eigenvalue 1 are orthonormal
    mixtures of the components' first ones.
    """
    if graph.shape[0] > max(exact_up_to, rank + SPARE):
        # the trivial eigenvector is the root of the degrees, found from the self-loops
        return leading_eigenpairs(graph, rank, (ISOLATED / graph.diagonal()) ** 0.5)
    edges = graph.copy()
    edges.eliminate_zeros()
    pieces, piece_of = connected_components(edges, directed=False)
    random = np.random.default_rng(0)

    def largest(part: sparse.csr_matrix, count: int) -> tuple[NDArray[np.float64], Floats]:
        # ARPACK draws a start itself otherwise, and no two runs are alike
        start = random.standard_normal(part.shape[0])
        found: tuple[NDArray[np.float64], Floats]
        found = eigsh(part, k=count, which="LA", tol=1e-4, v0=start)
        return found

    if pieces == 1:
        values, vectors = largest(graph, rank + 1)
        order = np.argsort(-values)[1:]
        return values[order], vectors[:, order]
    # (eigenvalue, rows [n], vector [n]) of all pieces; a piece's share of the level vector [P], and
    # that vector on each piece [N]
    found, shares, level = [], np.zeros(pieces), np.zeros(graph.shape[0])
    for piece in range(pieces):
        rows = np.flatnonzero(piece_of == piece)
        part, wanted = graph[rows][:, rows], min(rank + 1, len(rows))  # [n, n]
        if len(rows) <= 4 * wanted:
            last = len(rows) - wanted, len(rows) - 1
            values, vectors = eigh(part.toarray(), subset_by_index=last)
        else:
            values, vectors = largest(part, wanted)
        order = np.argsort(-values)
        level[rows] = np.abs(vectors[:, order[0]])
        shares[piece] = len(rows) ** 0.5
        found += [(values[one], rows, vectors[:, one]) for one in order[1:]]
    # orthonormal mixtures of the pieces' own vectors, none of them the mixture that is level
    # everywhere
    drawn = random.standard_normal((pieces, min(pieces - 1, rank)))
    mixtures = np.linalg.qr(np.column_stack([shares, drawn]))[0][:, 1:]  # [P, min(P - 1, R)]
    vectors = np.zeros((graph.shape[0], rank))
    vectors[:, : mixtures.shape[1]] = level[:, None] * mixtures[piece_of]
    rest = sorted(found, key=lambda one: -one[0])[: rank - mixtures.shape[1]]
    for column, (_, rows, vector) in enumerate(rest, mixtures.shape[1]):
        vectors[rows, column] = vector
    values = np.array([1.0] * mixtures.shape[1] + [value for value, _, _ in rest])
    return values, vectors[:, : len(values)]
