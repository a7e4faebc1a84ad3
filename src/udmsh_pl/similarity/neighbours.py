"""Nearest neighbours of every row of a large array among the others: products of whole cells.

An inverted file answers one row at a time and reads its lists from memory anew for each. Here all
rows ask, so those of a cell ask together: one matrix product with the rows of the cells around it.
*Ours*; the cells are FAISS's k-means.

Letters in shapes: N rows, D numbers of a row, k neighbours, n rows of a cell, c candidates.
"""

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

Float32s = NDArray[np.float32]

CELL, AROUND = 256, 16  # rows of a cell on average; cells that are searched for the rows of one
# clusterings, each with other cells: a border of one lies inside a cell of another. At 50,000 rows
# one finds 85 % of the neighbours, one with twice as many cells around 89, four find 98
PARTITIONS = 4
SAMPLE, ROUNDS = 40, 6  # rows a cell that k-means sees, and its rounds
AT_ONCE, MOST = 1024, 4 * CELL * AROUND  # rows and candidates of a product, where a cell is large


def neighbours_by_cell(
    unit: Float32s, k: int, around: int = AROUND, partitions: int = PARTITIONS
) -> tuple[Float32s, NDArray[np.int64]]:
    """Cosines and rows of nearly the k nearest other rows of each row; both ``[N, k]``.

    The work is ``256 * around * partitions`` products a row, whatever N is, and ``N / 256 *
    partitions`` to find its cells.

    Args:
        unit: float32 [N, D], rows of length 1
        k: neighbours; -1, with a cosine of 0, stands where the cells around hold too few
        around: cells that are searched, the row's own among them; all of them make it exact
        partitions: number of clusterings, each with other cells

    Example:
        >>> draw = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
        >>> unit = draw / np.linalg.norm(draw, axis=1, keepdims=True)
        >>> cosines, rows = neighbours_by_cell(unit, k=1)
        >>> exact = (unit @ unit.T - 2 * np.eye(600, dtype=np.float32)).argmax(1)
        >>> bool((rows[:, 0] == exact).all())
        True
    """
    if len(unit) <= CELL * around:  # the cells around are all there are
        partitions = 1
    cosines, rows = _of_partition(unit, k, around, seed=0)
    for seed in range(1, partitions):
        _take_nearer(cosines, rows, *_of_partition(unit, k, around, seed))
    return cosines, rows


def _take_nearer(
    cosines: Float32s, rows: NDArray[np.int64], others: Float32s, other_rows: NDArray[np.int64]
) -> None:
    """Let the k nearest of both stand in the first two, all ``[N, k]``."""
    k = rows.shape[1]
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        both = torch.from_numpy(np.concatenate([rows[part], other_rows[part]], axis=1))
        both, order = both.sort(dim=1, stable=True)
        values = torch.from_numpy(np.concatenate([cosines[part], others[part]], axis=1))
        values = values.gather(1, order)
        again = torch.zeros_like(both, dtype=torch.bool)
        again[:, 1:] = both[:, 1:] == both[:, :-1]
        best = values.masked_fill(again | (both < 0), -torch.inf).topk(k, dim=1)
        found = best.values > -torch.inf
        rows[part] = both.gather(1, best.indices).masked_fill(~found, -1).numpy()
        cosines[part] = best.values.masked_fill(~found, 0).numpy()


def _of_partition(
    unit: Float32s, k: int, around: int, seed: int
) -> tuple[Float32s, NDArray[np.int64]]:
    """:func:`neighbours_by_cell` with the cells of one k-means."""
    count, dim = unit.shape
    cells = max(1, count // CELL)
    means = faiss.Kmeans(
        dim, cells, niter=ROUNDS, seed=seed, spherical=True, max_points_per_centroid=SAMPLE
    )
    means.train(unit)
    cell_of = means.index.search(unit, 1)[1][:, 0]  # [N]
    centres = np.asarray(means.centroids)  # [cells, D]
    near = means.index.search(centres, min(around, cells))[1]  # [cells, around]
    members = np.argsort(cell_of, kind="stable")
    ends = np.searchsorted(cell_of[members], np.arange(cells + 1))
    rows_of = [members[ends[cell] : ends[cell + 1]] for cell in range(cells)]
    cosines, rows = np.zeros((count, k), np.float32), np.full((count, k), -1, np.int64)
    values = torch.from_numpy(unit)
    for cell, asked in enumerate(rows_of):
        if not len(asked):
            continue
        rest = [rows_of[one] for one in near[cell] if one != cell]
        found = torch.from_numpy(np.concatenate([asked, *rest])[:MOST])  # [c], its own rows first
        candidates = values[found].T  # [D, c]
        for start in range(0, len(asked), AT_ONCE):
            own = torch.from_numpy(asked[start : start + AT_ONCE])  # [n]
            products = values[own] @ candidates  # [n, c]
            itself = torch.arange(start, min(start + len(own), len(found)))
            products[itself - start, itself] = -torch.inf
            best = products.topk(min(k, max(len(found) - 1, 0)), dim=1)
            cosines[own, : best.values.shape[1]] = best.values.numpy()
            rows[own, : best.values.shape[1]] = found[best.indices].numpy()
    return cosines, rows
