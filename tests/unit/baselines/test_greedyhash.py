"""GreedyHash's objective against a double loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import GreedyHash


def test_objective_equals_the_double_loop(batch: Any, build: Callable[..., Any]) -> None:
    method = build(GreedyHash, alpha=0.3)
    h = method.logits(batch).detach().double().numpy()
    f = batch["global_feature"].double().numpy()
    errors = []
    for i in range(12):
        for j in range(12):
            if i != j:
                b_i, b_j = np.where(h[i] >= 0, 1, -1), np.where(h[j] >= 0, 1, -1)
                of_features = f[i] @ f[j] / np.sqrt((f[i] @ f[i]) * (f[j] @ f[j]))
                errors.append((b_i @ b_j / 8 - of_features) ** 2)
    penalty = np.mean([abs(value - np.sign(value)) ** 3 for value in h.ravel()])
    terms = method.objective(batch)
    assert terms["cosine"].item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert terms["penalty"].item() == pytest.approx(0.3 * penalty, rel=1e-4)


def test_centred_features_are_matched_on_request(
    batch: Any, build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    method = build(GreedyHash, centre=True)
    train = batch["global_feature"].half().float()
    teach(method, train)
    torch.testing.assert_close(method.mean, train.mean(0))
    assert "mean" in method.state_dict()
    f = (batch["global_feature"] - train.mean(0)).double().numpy()
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    codes = np.where(method.logits(batch).detach().numpy() >= 0, 1, -1)
    errors = (codes @ codes.T / 8 - f @ f.T)[np.triu_indices(12, 1)] ** 2
    assert method.objective(batch)["cosine"].item() == pytest.approx(errors.mean(), rel=1e-4)


def test_training_lowers_it(
    batch: Any, build: Callable[..., Any], losses_of_training: Callable[..., list[float]]
) -> None:
    losses = losses_of_training(build(GreedyHash), batch)
    assert losses[-1] < 0.8 * losses[0]  # eight signs cannot reach every cosine
