"""MLS3RDUH: lists and similarity against a dense inverse, the loss against a loop."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.cached import taught
from torch import Tensor

from udmsh_pl.baselines import MLS3RDUH
from udmsh_pl.baselines.mls3rduh import ListSettings, fit_manifold, list_members, log_cosh_loss
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures


def rings(rows: int = 60, dim: int = 512) -> torch.Tensor:
    """Two noisy, positive curves on which the manifold disagrees with the cosine here and there."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(4, dim, generator=generator).relu()
    place = torch.linspace(0, 1, rows // 2)[:, None]
    curves = torch.cat(
        [(1 - place) * ends[0] + place * ends[1], (1 - place) * ends[2] + place * ends[3]]
    )
    return (curves + 0.25 * torch.randn(rows, dim, generator=generator)).relu().half().float()


def oracle(features: torch.Tensor, near: int, reach: int, damping: float) -> np.ndarray:
    """The official code's steps, dense and one row at a time."""
    x = features.double().numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T
    count = len(x)
    lists = [
        set(sorted((j for j in range(count) if j != i), key=lambda j: -cosine[i, j])[:near])
        for i in range(count)
    ]
    graph = np.array(
        [
            [cosine[i, j] * (j in lists[i] and i in lists[j]) for j in range(count)]
            for i in range(count)
        ]
    )
    degree = graph.sum(1)
    assert (degree > 0).all()
    ranking = np.linalg.inv(np.eye(count) - damping * graph / np.sqrt(np.outer(degree, degree)))
    similarity = 2 * cosine - 1
    manifold = [set(np.argsort(-ranking[i])[:reach].tolist()) for i in range(count)]
    for i in range(count):
        for j in range(count):
            claims = [(j in lists[i], j in manifold[i]), (i in lists[j], i in manifold[j])]
            if (True, True) in claims:
                similarity[i, j] = 1
            elif (True, False) in claims:
                similarity[i, j] = -1
    return similarity


def stored(features: Tensor) -> dict[str, np.ndarray]:
    return {"global_feature": features.numpy().astype(np.float16)}


def similarity_of(method: MLS3RDUH, features: Tensor, rows: list[int]) -> Tensor:
    return method.similarity(taught(method, TrainFeatures(stored(features)), rows))


def lists_of(method: MLS3RDUH) -> dict[str, Tensor]:
    """The lists of the first twelve images."""
    batch = taught(method, TrainFeatures(stored(rings())), range(12))
    return {name: batch[name] for name in batch if name not in ("global_feature", "labels")}


@pytest.fixture
def method(build: Callable[..., Any], teach: Callable[..., None]) -> MLS3RDUH:
    made: MLS3RDUH = build(MLS3RDUH, cosine_share=0.2, manifold_share=0.3)
    teach(made, rings())
    return made


def test_similarity_equals_the_dense_definition(method: MLS3RDUH) -> None:
    features = rings()
    expected = oracle(features, 12, 18, 0.99)
    assert (expected == 1).sum() > 60
    assert (expected == -1).sum() > 0
    every = similarity_of(method, features, list(range(60)))
    np.testing.assert_allclose(every, expected, atol=1e-4)
    rows = [41, 3, 7, 59, 12]  # a batch's block, in any order
    block = expected[np.ix_(rows, rows)]
    np.testing.assert_allclose(similarity_of(method, features, rows), block, atol=1e-4)


def test_leading_eigenvectors_nearly_suffice(
    build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    made = build(MLS3RDUH, cosine_share=0.2, manifold_share=0.3, rank=30)
    assert made.fit_teacher(teach(made, rings()))["vectors"].shape == (60, 30)
    found = similarity_of(made, rings(), list(range(60)))
    agree = found.numpy() - oracle(rings(), 12, 18, 0.99)
    assert (np.abs(agree) < 1e-3).mean() > 0.99


def test_blocks_do_not_matter() -> None:
    whole = fit_manifold(stored(rings()), ListSettings(0.2, 0.3))
    parts = fit_manifold(stored(rings()), ListSettings(0.2, 0.3), at_once=60 * 7)
    for name in ("cosine_above", "edge_above", "score_above", "scale"):
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=1e-5)


def test_an_image_without_mutual_neighbours_keeps_its_cosines(
    build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    features = rings()
    features[5] = torch.eye(512)[3]  # like nothing else
    made = build(MLS3RDUH, cosine_share=0.1, manifold_share=0.2)
    assert made.fit_teacher(teach(made, features))["scale"][5] == 0
    unit = torch.nn.functional.normalize(features, dim=1)
    similarity = similarity_of(made, features, list(range(60)))
    torch.testing.assert_close(similarity[5], (2 * unit[5] @ unit.T - 1).clamp(-1, 1))


def test_nothing_of_another_component_is_in_a_manifold_list() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.zeros(40, 16)
    features[:20, :8] = torch.rand(20, 8, generator=generator)
    features[20:, 8:] = torch.rand(20, 8, generator=generator)
    features = features.half().float()
    state = fit_manifold(stored(features), ListSettings(0.25, 0.75))  # longer than a component
    unit = torch.nn.functional.normalize(features, dim=1)
    rows = state | {"index": torch.arange(40)}
    _, members = list_members(rows, state["gains"], unit @ unit.T)
    assert not members[:20, 20:].any()
    assert not members[20:, :20].any()
    assert members[:20, :20].sum() == 20 * 19  # an image is no member of its own list


def test_objective_equals_the_double_loop(method: MLS3RDUH, batch: Any) -> None:
    batch |= lists_of(method)
    similarity = method.similarity(batch).double().numpy()
    u = method(batch).detach().double().numpy()
    total = 0.0
    for i in range(12):
        for j in range(12):
            total += math.log(math.cosh(u[i] @ u[j] / 8 - similarity[i, j]))
    assert method.objective(batch)["pairwise"].item() == pytest.approx(total / 144, rel=1e-4)
    assert float(log_cosh_loss(torch.ones(2, 3), torch.ones(2, 2))) == 0


def test_training_lowers_it(
    method: MLS3RDUH, batch: Any, losses_of_training: Callable[..., list[float]]
) -> None:
    batch |= lists_of(method) | {"global_feature": rings()[:12]}
    losses = losses_of_training(method, batch)
    assert losses[-1] < 0.6 * losses[0]


def test_lists_that_would_be_empty_are_refused() -> None:
    with pytest.raises(InputError, match="5 train images"):
        fit_manifold(stored(rings()[:5]), ListSettings())
    with pytest.raises(InputError, match="damping 1"):
        fit_manifold(stored(rings()), ListSettings(damping=1.0))
