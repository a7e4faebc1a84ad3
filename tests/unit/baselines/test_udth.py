"""UDTH: triplets, hinge and objective against loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import UDTH
from udmsh_pl.baselines.udth import pseudo_triplets, triplet_loss
from udmsh_pl.errors import InputError


def oracle_triplets(features: np.ndarray, near: int, far: int) -> list[tuple[int, int, int]]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = []
    for i in range(len(unit)):
        others = sorted((j for j in range(len(unit)) if j != i), key=lambda j: -unit[i] @ unit[j])
        found += [(i, p, n) for p in others[:near] for n in others[-far:]]
    return found


def oracle(u: np.ndarray, triplets: list[tuple[int, int, int]], margin: float) -> float:
    values = [max(0.0, margin + (u[i] @ u[n] - u[i] @ u[p]) / u.shape[1]) for i, p, n in triplets]
    return float(np.mean(values))


def test_triplets_and_hinge_equal_the_loop() -> None:
    draw = np.random.default_rng(0)
    features, u = draw.standard_normal((9, 6)), np.tanh(draw.standard_normal((9, 4)))
    rows = pseudo_triplets(torch.from_numpy(features), 2 / 9, 3 / 9)
    assert rows[0].shape == (9, 2)
    assert rows[1].shape == (9, 3)
    actual = triplet_loss(torch.from_numpy(u), *rows, 0.5)
    assert float(actual) == pytest.approx(oracle(u, oracle_triplets(features, 2, 3), 0.5))


def test_objective_equals_the_definition(
    batch: Any, build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    method = build(UDTH, near=2 / 12, far=4 / 12, decoding_weight=0.5)
    teach(method, batch["global_feature"])
    u = method(batch).detach().double().numpy()
    features = batch["global_feature"].double().numpy()
    features = features - features.mean(0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weight, bias = (one.detach().double().numpy() for one in method.decoder.parameters())
    decoded = np.mean([np.sum((weight @ one + bias - f) ** 2) for one, f in zip(u, unit)])  # noqa: B905
    terms = method.objective(batch)
    expected = oracle(u, oracle_triplets(features, 2, 4), 0.5)
    assert terms["triplet"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["decoding"].item() == pytest.approx(0.5 * decoded, rel=1e-4)
    expected = 0.1 * np.mean((np.abs(u) - 1) ** 2)
    assert terms["quantisation"].item() == pytest.approx(expected, rel=1e-4)


def test_training_lowers_it(
    batch: Any,
    build: Callable[..., Any],
    teach: Callable[..., None],
    losses_of_training: Callable[..., list[float]],
) -> None:
    method = build(UDTH, near=2 / 12, far=4 / 12)
    teach(method, batch["global_feature"])
    losses = losses_of_training(method, batch)
    assert losses[-1] < 0.9 * losses[0]


def test_a_batch_must_hold_both_kinds(build: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"data\.batch_size"):
        pseudo_triplets(torch.rand(2, 3), 0.05, 0.5)
    with pytest.raises(InputError, match=r"model\.near"):
        build(UDTH, near=0.6)
