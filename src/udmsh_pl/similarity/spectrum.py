"""Leading eigenpairs of a graph too large for Lanczos: Chebyshev-filtered subspace iteration.

Zhou, Saad, Tiago & Chelikowsky, J. Comput. Phys. 2006, for the upper end of the spectrum. Nearly
all of the cost is products of the sparse matrix with a block of vectors, in float32.

Letters in shapes: N rows, R = rank, m = R + ``SPARE`` vectors of the block.
"""

import warnings

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

SPARE = 32  # vectors beyond those asked for: the last ones of a block are blurred
DEGREE, ROUNDS = 10, 8  # of the filter, and at most how often it is applied
SMALLEST = 1e-7  # share of the largest spread below which a direction of the block is rounding
SETTLED = 2e-3  # no eigenvalue moved by more than this: gaps are compared with 1


def leading_eigenpairs(
    graph: sparse.csr_matrix, rank: int, without: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The ``rank`` largest eigenvalues, falling, and their vectors, float32 ``[N, rank]``.

    Good to ``SETTLED``; an eigenvalue that occurs several times is found as often.

    Args:
        graph: symmetric [N, N], with eigenvalues from -1 to 1
        rank: how many; at most N - 33
        without: float [N], an eigenvector that is left out

    Example:
        >>> ring = sparse.diags([0.5, 0.5, 0.5, 0.5], [1, -1, 199, -199], shape=(200, 200)).tocsr()
        >>> values, vectors = leading_eigenpairs(ring, 4, np.ones(200))
        >>> exact = np.cos(2 * np.pi * np.array([1, 1, 2, 2]) / 200)
        >>> bool(np.abs(values - exact).max() < 1e-3)
        True
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(graph.indptr),
            torch.from_numpy(graph.indices),
            torch.from_numpy(graph.data.astype(np.float32)),
            size=graph.shape,
            check_invariants=False,  # SciPy's are whole
        )
    level = torch.from_numpy(without / np.linalg.norm(without)).float()[:, None]  # [N, 1]
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(graph.shape[0], rank + SPARE, generator=generator)
    values = torch.zeros(rank + SPARE)
    for _ in range(ROUNDS):
        block = _filtered(matrix, block, float(values[-1]))
        before, (values, block) = values, _ritz(matrix, block, level)
        if float((values - before)[:rank].abs().max()) < SETTLED:
            break
    return values[:rank].double().numpy(), block[:, :rank].numpy()


def _filtered(matrix: Tensor, block: Tensor, upper: float) -> Tensor:
    """``p(matrix) block`` with the Chebyshev polynomial that is small on [-1, upper] and grows
    fastest above.
    """
    centre, half = (upper - 1) / 2, (upper + 1) / 2
    before, now = block, (matrix @ block).sub_(block, alpha=centre).div_(half)
    for _ in range(1, DEGREE):
        following = (matrix @ now).sub_(now, alpha=centre).mul_(2 / half).sub_(before)
        before, now = now, following
        # the values at 1 grow without bound, and a common factor does not matter
        growth = float(now[: 1 << 14].abs().max().clamp_min(1e-30))
        before, now = before.div_(growth), now.div_(growth)
    return now


def _ritz(matrix: Tensor, block: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, of the matrix within the block's span at right angles to ``level
    [N, 1]``, and their orthonormal vectors ``[N, m]``.
    """
    block = block / block.norm(dim=0)
    for _ in range(2):  # once more: float32 loses half of its digits in a Gram matrix
        block -= level @ (level.T @ block)
        spread, axes = torch.linalg.eigh(_inner(block, block))
        block = block @ (axes / spread.clamp_min(SMALLEST * float(spread[-1])).sqrt()).float()
    values, turn = torch.linalg.eigh(_inner(block, matrix @ block))
    return values.flip(0).float(), block @ turn.flip(1).float()


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """``first' second`` ``[m, m]``, symmetric, summed over blocks of rows in float64."""
    total = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64)
    for one, other in zip(torch.split(first, 1 << 14), torch.split(second, 1 << 14), strict=True):
        total += (one.T @ other).double()
    return (total + total.T) / 2
