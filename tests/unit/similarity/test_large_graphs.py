"""What stands in for exact search and Lanczos beyond 100,000 rows, on small data against them."""

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from udmsh_pl.similarity.manifold import (
    diffused_embedding,
    nearest_neighbours,
    neighbour_graph,
    unit_rows,
)
from udmsh_pl.similarity.neighbours import CELL, neighbours_by_cell
from udmsh_pl.similarity.spectrum import leading_eigenpairs


def grouped(count: int, groups: int, dim: int = 24, noise: float = 0.6) -> np.ndarray:
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((groups, dim))
    rows = centres[np.arange(count) % groups] + noise * draw.standard_normal((count, dim))
    return rows.astype(np.float32)


def test_all_cells_around_are_an_exact_search() -> None:
    unit = unit_rows(grouped(3 * CELL, 5))
    cosines, rows = neighbours_by_cell(unit, 10, around=3)
    exact_cosines, exact_rows = nearest_neighbours(unit, 10)
    np.testing.assert_allclose(cosines, exact_cosines, atol=1e-6)
    assert (rows == exact_rows).mean() > 0.999


def test_few_cells_find_nearly_all() -> None:
    unit = unit_rows(grouped(40 * CELL, 200))
    _, rows = neighbours_by_cell(unit, 10, around=16)  # of 40
    _, exact = nearest_neighbours(unit, 10)
    found = [len(np.intersect1d(one, other)) for one, other in zip(rows, exact, strict=True)]
    assert np.mean(found) > 9


def test_what_one_border_parts_another_partition_finds() -> None:
    unit = unit_rows(grouped(20 * CELL, 200))
    _, exact = nearest_neighbours(unit, 10)

    def missed(partitions: int) -> float:
        cosines, rows = neighbours_by_cell(unit, 10, around=4, partitions=partitions)
        assert (np.diff(cosines, axis=1) <= 0).all()
        assert all(len(np.unique(row)) == 10 for row in rows)
        np.testing.assert_allclose(
            cosines[:99], np.einsum("nd,nkd->nk", unit[:99], unit[rows[:99]]), atol=1e-5
        )
        found = [len(np.intersect1d(one, other)) for one, other in zip(rows, exact, strict=True)]
        return 10 - float(np.mean(found))

    assert missed(3) < missed(1) / 2


def test_copies_fill_a_cell_and_no_row_is_its_own_neighbour() -> None:
    unit = unit_rows(np.concatenate([np.ones((4 * CELL, 8)), grouped(CELL, 3, dim=8)]))
    cosines, rows = neighbours_by_cell(unit, 5, around=1)
    assert (rows != np.arange(len(rows))[:, None]).all()
    assert np.isfinite(cosines).all()
    assert (rows < len(rows)).all()
    assert (cosines[rows < 0] == 0).all()


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 1000))
def test_eigenpairs_are_those_of_a_dense_solver(pieces: int, rank: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    blocks = []
    for _ in range(pieces):
        weights = draw.random((40, 40)) * (draw.random((40, 40)) < 0.3)
        blocks.append(weights + weights.T + 1e-6 * np.eye(40))
    edges = sparse.block_diag(blocks).tocsr()
    degree = np.asarray(edges.sum(1)).ravel()
    scale = sparse.diags(degree**-0.5)
    graph = (scale @ edges @ scale).tocsr()
    values, vectors = leading_eigenpairs(graph, rank, degree**0.5)
    exact = np.sort(np.linalg.eigvalsh(graph.toarray()))[::-1]
    # the level vector takes one of the eigenvalues 1 away, of which there is one a piece
    np.testing.assert_allclose(values, exact[1 : rank + 1], atol=5e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(rank), atol=1e-4)
    np.testing.assert_allclose(vectors.T @ degree**0.5, 0, atol=1e-3 * degree.sum() ** 0.5)
    # the last ones may mix with those that come next
    first = max(1, rank // 2)
    left = graph @ vectors[:, :first] - vectors[:, :first] * values[:first]
    assert np.linalg.norm(left, axis=0).max() < 0.1


@pytest.mark.parametrize("noise", [0.3, 1.2])  # a graph in pieces, and one in one piece
def test_the_large_teacher_is_the_exact_one(noise: float) -> None:
    features = grouped(2000, 30, noise=noise)
    features -= features.mean(0)
    exact = diffused_embedding(neighbour_graph(features, 15), rank=40)
    graph = neighbour_graph(features, 15, exact_up_to=100)
    large = diffused_embedding(graph, rank=40, exact_up_to=100)
    assert large.dtype == np.float32
    pairs = np.random.default_rng(1).integers(0, 2000, (2, 5000))
    cosines = [(one[pairs[0]] * one[pairs[1]]).sum(1) for one in (exact, large)]
    assert np.abs(cosines[0] - cosines[1]).mean() < 0.02
    labels = np.arange(2000) % 30
    precision = []
    for one in (exact, large):
        near = np.argsort(-(one @ one.T), axis=1)[:, 1:51]
        precision.append((labels[near] == labels[:, None]).mean())
    assert precision[1] == pytest.approx(precision[0], abs=0.005)
