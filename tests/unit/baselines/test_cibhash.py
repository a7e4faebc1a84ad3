"""CIBHash: divergence, codes and objective against loops; what it asks of the data."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import CIBHash
from udmsh_pl.baselines.cibhash import bernoulli_kl
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import view


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    total = 0.0
    for a, b in zip(p.ravel(), q.ravel(), strict=True):
        total += a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    return total / len(p)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_divergence_equals_the_loop_and_torchs_own() -> None:
    first, second = torch.randn(2, 5, 3, dtype=torch.float64) * 3
    expected = divergence(sigmoid(first.numpy()), sigmoid(second.numpy()))
    assert float(bernoulli_kl(first, second)) == pytest.approx(expected)
    bernoulli = torch.distributions.Bernoulli
    known = torch.distributions.kl_divergence(bernoulli(logits=first), bernoulli(logits=second))
    torch.testing.assert_close(bernoulli_kl(first, second), known.sum(1).mean())
    assert torch.isfinite(bernoulli_kl(torch.full((1, 2), 300.0), torch.full((1, 2), -300.0)))


def test_objective_equals_the_double_loop(batch: Any, build: Callable[..., Any]) -> None:
    method = build(CIBHash, bottleneck_weight=0.5)
    views = [method.logits(view(batch, number)).detach().double().numpy() for number in (0, 1)]
    codes = np.where(np.concatenate(views) >= 0, 1.0, -1.0)
    total = 0.0
    for i in range(24):
        logits = {j: math.exp(codes[i] @ codes[j] / 8 / 0.3) for j in range(24) if j != i}
        total -= math.log(logits[(i + 12) % 24] / sum(logits.values()))
    p, q = (sigmoid(one) for one in views)
    terms = method.objective(batch)
    assert terms["contrastive"].item() == pytest.approx(total / 24, rel=1e-4)
    assert terms["bottleneck"].item() == pytest.approx(
        0.5 * (divergence(p, q) + divergence(q, p)) / 2, rel=1e-3
    )


def test_sampled_codes_follow_their_probabilities(build: Callable[..., Any]) -> None:
    method = build(CIBHash, sample=True)
    logits = torch.tensor([[-2.0, 0.0, 1.0]]).repeat(20_000, 1).requires_grad_()
    codes = method.binarise(logits)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose(
        (codes > 0).float().mean(0), sigmoid(np.array([-2.0, 0.0, 1.0])), atol=0.02
    )
    codes.sum().backward()
    assert logits.grad is not None
    p = logits.detach().sigmoid()
    torch.testing.assert_close(
        logits.grad, p * (1 - p)
    )  # through the probability, not through the threshold


def test_training_lowers_it(
    batch: Any, build: Callable[..., Any], losses_of_training: Callable[..., list[float]]
) -> None:
    losses = losses_of_training(build(CIBHash), batch)
    assert losses[-1] < losses[0] - 0.2


def test_it_asks_for_views_and_a_frozen_backbone(batch: Any, build: Callable[..., Any]) -> None:
    arrays = {"global_feature": batch["global_feature"].numpy()}
    with pytest.raises(InputError, match=r"data\.views"):
        build(CIBHash).train_rows(TrainFeatures(arrays))
    with pytest.raises(InputError, match="finetune false"):
        build(CIBHash, finetune=True)
