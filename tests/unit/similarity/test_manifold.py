"""The manifold teacher against dense linear algebra."""

import numpy as np
import pytest
from scipy.linalg import eigh, expm

from udmsh_pl.similarity.manifold import (
    diffused_embedding,
    diffused_levels,
    group_count,
    nearest_neighbours,
    neighbour_graph,
    neighbour_trust,
    unit_rows,
)


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)


def dense_graph(features: np.ndarray, k: int, power: float) -> np.ndarray:
    cosine = unit_rows(features).astype(float) @ unit_rows(features).T
    np.fill_diagonal(cosine, -np.inf)
    weights = np.zeros_like(cosine)
    for row in range(len(features)):
        for other in np.argsort(-cosine[row])[:k]:
            weights[row, other] = max(cosine[row, other], 0) ** power
    weights = (weights + weights.T) / 2 + 1e-6 * np.eye(len(features))
    return weights / np.sqrt(np.outer(weights.sum(0), weights.sum(0)))


def test_neighbours_equal_brute_force(features: np.ndarray) -> None:
    cosine = unit_rows(features) @ unit_rows(features).T
    np.fill_diagonal(cosine, -np.inf)
    cosines, rows = nearest_neighbours(unit_rows(features), 5)
    np.testing.assert_array_equal(rows, np.argsort(-cosine, axis=1)[:, :5])
    np.testing.assert_allclose(cosines, -np.sort(-cosine, axis=1)[:, :5], atol=1e-6)


def test_a_row_is_never_its_own_neighbour_even_among_copies(features: np.ndarray) -> None:
    copies = np.repeat(features[:6], 10, axis=0)
    _, rows = nearest_neighbours(unit_rows(copies), 4)
    assert (rows != np.arange(60)[:, None]).all()
    assert rows.shape == (60, 4)


def test_many_rows_are_searched_approximately() -> None:
    unit = unit_rows(np.random.default_rng(1).standard_normal((3000, 8)).astype(np.float32))
    _, exact = nearest_neighbours(unit, 10)
    _, found = nearest_neighbours(unit, 10, exact_up_to=2000)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert 0.8 < recall <= 1
    assert (nearest_neighbours(unit, 10, exact_up_to=2000)[1] == found).all()


@pytest.mark.parametrize(("k", "power"), [(5, 3.0), (8, 1.0)])
def test_graph_equals_the_dense_one(features: np.ndarray, k: int, power: float) -> None:
    graph = neighbour_graph(features, k, power)
    np.testing.assert_allclose(graph.toarray(), dense_graph(features, k, power), atol=1e-6)
    assert graph.nnz <= 60 * (2 * k + 1)


def test_embedding_equals_the_dense_spectrum(features: np.ndarray) -> None:
    dense = dense_graph(features, 8, 2.0)
    ours = diffused_embedding(neighbour_graph(features, 8, 2.0), rank=10, time=3.0)
    values, vectors = eigh(dense)
    kept = slice(-11, -1)
    theirs = unit_rows(vectors[:, kept] * np.exp(-3.0 * (1 - values[kept])))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-3)


def test_embedding_is_the_heat_kernel_without_its_constant_part(features: np.ndarray) -> None:
    # with a long time only the leading eigenvectors carry heat, so that a rank of a quarter holds
    # nearly all of it
    dense, time = dense_graph(features, 8, 2.0), 20.0
    heat = expm(-2 * time * (np.eye(60) - dense))
    values, vectors = eigh(dense)
    heat -= np.exp(-2 * time * (1 - values[-1])) * np.outer(vectors[:, -1], vectors[:, -1])
    scale = np.sqrt(np.diag(heat))
    ours = diffused_embedding(neighbour_graph(features, 8, 2.0), rank=15, time=time)
    np.testing.assert_allclose(ours @ ours.T, heat / np.outer(scale, scale), atol=2e-2)


def test_similarity_follows_the_manifold_where_the_cosine_does_not() -> None:
    angle = np.linspace(0, 0.9 * np.pi, 200)  # two long arcs on a sphere, one above the other
    arcs = [
        np.stack([np.cos(angle), np.sin(angle), np.full(200, height)], 1)
        for height in (-0.15, 0.15)
    ]
    points = np.concatenate(arcs).astype(np.float32)
    embedding = diffused_embedding(neighbour_graph(points, 6, 3.0), rank=20, time=2000.0)
    cosine = unit_rows(points) @ unit_rows(points).T
    assert (
        cosine[0, 200] > cosine[0, 60]
    )  # the other arc's end is nearer than a place further along the own arc
    similarity = embedding @ embedding.T
    assert similarity[0, 60] > similarity[0, 200] + 0.5


@pytest.mark.parametrize("pieces", [2, 7, 25])
def test_a_graph_in_pieces_equals_the_dense_spectrum(pieces: int) -> None:
    generator = np.random.default_rng(0)
    centres = 100 * np.eye(pieces, 30) + generator.standard_normal((pieces, 30))
    piece_of = np.sort(np.arange(300) % pieces)
    features = (centres[piece_of] + generator.standard_normal((300, 30))).astype(np.float32)
    graph = neighbour_graph(features, 6, 3.0)
    ours = diffused_embedding(graph, rank=40, time=2.0)
    values, vectors = eigh(graph.toarray())
    assert (values > 1 - 1e-6).sum() == pieces
    ones = vectors[:, values > 1 - 1e-6]
    projector = ones @ ones.T  # onto what is level on each piece
    everywhere = np.sqrt(np.diag(projector) * np.bincount(piece_of)[piece_of])
    projector -= np.outer(everywhere, everywhere) / (everywhere @ everywhere)
    assert np.trace(projector) == pytest.approx(pieces - 1)
    kept = slice(-41, -pieces)
    heat = projector + vectors[:, kept] * np.exp(-4.0 * (1 - values[kept])) @ vectors[:, kept].T
    scale = np.sqrt(np.diag(heat))
    similarity = ours @ ours.T
    assert np.abs(similarity - heat / np.outer(scale, scale)).mean() < 0.02
    same = piece_of[:, None] == piece_of
    assert similarity[same].mean() > similarity[~same].mean() + 0.2


def test_more_pieces_than_vectors_stay_apart() -> None:
    points = (100 * np.random.default_rng(0).standard_normal((60, 40))[np.arange(600) % 60]).astype(
        np.float32
    )
    embedding = diffused_embedding(neighbour_graph(points, 5), rank=32)
    similarity = embedding @ embedding.T
    same = np.arange(600)[:, None] % 60 == np.arange(600) % 60
    assert similarity[same].min() > 0.99
    assert np.abs(similarity[~same]).mean() < 0.3


def test_heat_flows_shorter_where_there_are_more_groups() -> None:
    def rule(graph_of: np.ndarray) -> float:
        graph = neighbour_graph(graph_of, 10)
        values = np.sort(eigh(graph.toarray(), eigvals_only=True))[::-1]
        time = max(18 * (1 - values[64]), 2)  # values[0] is the one left out
        np.testing.assert_allclose(
            diffused_embedding(graph) @ diffused_embedding(graph).T,
            diffused_embedding(graph, time=time) @ diffused_embedding(graph, time=time).T,
            atol=1e-3,
        )
        return float(time)

    def points(groups: int) -> np.ndarray:
        generator = np.random.default_rng(0)
        centres, noise = (
            generator.standard_normal((groups, 32)),
            generator.standard_normal((1200, 32)),
        )
        return (2 * centres[np.arange(1200) % groups] + noise).astype(np.float32)

    assert rule(points(100)) < 0.5 * rule(points(5))


def test_the_same_features_give_the_same_embedding(features: np.ndarray) -> None:
    graph = neighbour_graph(features, 5)
    np.testing.assert_array_equal(diffused_embedding(graph, 8), diffused_embedding(graph, 8))
    assert diffused_embedding(graph, 128).shape == (60, 15)  # a quarter of the rows at most


@pytest.mark.parametrize("count", [2, 3, 5, 300])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_few_images_or_images_all_alike_have_an_embedding(count: int, scale: float) -> None:
    points = scale * np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    embedding = diffused_embedding(neighbour_graph(points))
    assert embedding.shape == (count, max(1, count // 4))
    assert np.isfinite(embedding).all()


def test_hubs_are_not_trusted_and_groups_are() -> None:
    draw = np.random.default_rng(0)
    groups = np.eye(8, 40)[np.arange(400) % 8] + 0.1 * draw.standard_normal((400, 40))
    assert neighbour_trust(unit_rows(groups), 20) > 0.9
    # rows along one direction, a little of it or much: those with much are near to everybody
    away = draw.standard_normal((400, 200)) / 200**0.5
    strength = draw.random((400, 1)) ** 3
    hubs = away + 2 * strength * np.eye(1, 200)
    assert neighbour_trust(unit_rows(hubs), 20) < 0.1


def test_distrust_shortens_the_time_of_the_rule_alone() -> None:
    draw = np.random.default_rng(0)
    graph = neighbour_graph(draw.standard_normal((300, 10)).astype(np.float32), 10)
    trusted, given = diffused_levels(graph, [(20, None), (20, 5.0)])
    doubted, also_given = diffused_levels(graph, [(20, None), (20, 5.0)], trust=0.0)
    np.testing.assert_array_equal(doubted, diffused_embedding(graph, 20, time=2.0))
    np.testing.assert_array_equal(given, also_given)
    assert np.abs(trusted - doubted).max() > 0.01


def test_group_count_is_that_of_equal_groups_and_ignores_scale() -> None:
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((9, 9)))[0][rng.permutation(np.repeat(range(7), 6))]
    assert group_count(turned) == pytest.approx(7)
    levels = unit_rows(rng.standard_normal((30, 4)).astype(np.float32))
    every = np.square(levels @ levels.T).mean()  # all pairs, one by one
    assert group_count(0.3 * levels) == pytest.approx(1 / every, rel=1e-5)
