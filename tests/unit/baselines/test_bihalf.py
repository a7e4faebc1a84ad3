"""The bi-half layer against NumPy's sort and its formula; its objective against a double loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import BiHalf
from udmsh_pl.baselines.bihalf import bi_half


def sorted_codes(h: np.ndarray) -> np.ndarray:
    codes = -np.ones_like(h)
    for bit in range(h.shape[1]):
        codes[np.argsort(-h[:, bit], kind="stable")[: len(h) // 2], bit] = 1
    return codes


@pytest.mark.parametrize("rows", [8, 9])
def test_forward_is_a_sort_and_backward_the_formula(rows: int) -> None:
    h = torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rows)) + 2
    h[3] = h[4]  # ties too
    h.requires_grad_()
    codes = bi_half(h, 6.0)
    expected = sorted_codes(h.detach().numpy())
    np.testing.assert_array_equal(codes.detach().numpy(), expected)
    assert (codes.sum(0) == -(rows % 2)).all()
    incoming = torch.randn(rows, 5, dtype=torch.float64)
    codes.backward(incoming)
    assert h.grad is not None
    formula = incoming.numpy() + 6 * (h.detach().numpy() - expected) / (rows * 5)
    np.testing.assert_allclose(h.grad.numpy(), formula)


def test_objective_equals_the_double_loop(batch: Any, build: Callable[..., Any]) -> None:
    method = build(BiHalf)
    codes = sorted_codes(method.logits(batch).detach().numpy())
    f = batch["global_feature"].double().numpy()
    errors = []
    for i in range(12):
        for j in range(i):
            of_features = f[i] @ f[j] / np.sqrt((f[i] @ f[i]) * (f[j] @ f[j]))
            errors.append((codes[i] @ codes[j] / 8 - of_features) ** 2)
    assert method.objective(batch)["cosine"].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_training_lowers_it_and_balances_plain_signs(
    batch: Any, build: Callable[..., Any], losses_of_training: Callable[..., list[float]]
) -> None:
    method = build(BiHalf)
    losses = losses_of_training(method, batch)
    assert (
        losses[-1] < 0.95 * losses[0]
    )  # balanced codes cannot reach the cosines of uncentred features
    on = (method(batch) >= 0).float().mean(0)
    assert (on - 0.5).abs().mean() < 0.15
