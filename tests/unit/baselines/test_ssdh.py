"""SSDH: pseudo-labels and loss against loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import SSDH
from udmsh_pl.baselines.ssdh import ssdh_loss


def test_loss_equals_the_double_loop() -> None:
    generator = np.random.default_rng(0)
    u, s = (
        np.tanh(generator.standard_normal((6, 4))),
        generator.integers(-1, 2, (6, 6)).astype(float),
    )
    total = sum(abs(s[i, j]) * (u[i] @ u[j] / 4 - s[i, j]) ** 2 for i in range(6) for j in range(6))
    assert float(ssdh_loss(torch.from_numpy(u), torch.from_numpy(s))) == pytest.approx(total / 36)


def test_objective_equals_the_definition(
    batch: Any, build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    method = build(SSDH, alpha=1.0, beta=1.0)
    train = (
        (batch["global_feature"].repeat(20, 1) + 0.8 * torch.randn(240, 512)).relu().half().float()
    )
    teach(method, train)
    x = train.double().numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    distances = 1 - (x @ x.T)[np.triu_indices(240, 1)]
    counts, edges = np.histogram(distances, bins=200, range=(0, 2))
    mode = (edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    left, right = distances[distances <= mode], distances[distances > mode]
    near = mode - np.sqrt(((left - mode) ** 2).mean())
    far = mode + np.sqrt(((right - mode) ** 2).mean())
    clean = batch["global_feature"].double().numpy()
    u = method(batch).detach().double().numpy()
    total, seen = 0.0, set()
    for i in range(12):
        for j in range(12):
            d = 1 - clean[i] @ clean[j] / np.sqrt((clean[i] @ clean[i]) * (clean[j] @ clean[j]))
            s = 1 if d <= near else -1 if d >= far else 0
            seen.add(s)
            total += abs(s) * (u[i] @ u[j] / 8 - s) ** 2
    assert seen == {-1, 0, 1}
    terms = method.objective(batch)
    assert list(terms) == ["pairwise"]
    assert terms["pairwise"].item() == pytest.approx(total / 144, rel=1e-4)


def test_training_lowers_it(
    batch: Any,
    build: Callable[..., Any],
    teach: Callable[..., None],
    losses_of_training: Callable[..., list[float]],
) -> None:
    method = build(SSDH)
    teach(method, batch["global_feature"])
    losses = losses_of_training(method, batch)
    assert losses[-1] < 0.5 * losses[0]


def test_the_paper_uses_the_global_branch_and_uncentred_features(build: Callable[..., Any]) -> None:
    method = build(SSDH)
    assert method.encoder.branches == "global"
    assert not method.structure.centre
    assert "structure.thresholds" in method.state_dict()
