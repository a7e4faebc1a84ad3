"""WCH: attention, weights and contrast against loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import WCH
from udmsh_pl.baselines.wch import mutual_attention, patch_weights, weighted_contrastive_loss
from udmsh_pl.errors import InputError

B, N, C = 3, 4, 5


def patches(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((B, N, C))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def softmax(values: list[float]) -> np.ndarray:
    weights = np.exp(values)
    return weights / weights.sum()


def oracle_attention(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Patches of ``one`` as those of ``other`` ask for them."""
    asked = np.empty_like(one)
    for b in range(len(one)):
        for j in range(one.shape[1]):
            weights = softmax([cosine(patch, other[b, j]) for patch in one[b]])
            asked[b, j] = weights @ one[b]
    return asked


def oracle_weights(one: np.ndarray, other: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.empty((len(one), len(one)))
    for i in range(len(one)):
        alike = [
            np.mean([max(cosine(p, q) for q in other[j]) for p in one[i]]) for j in range(len(one))
        ]
        shares = softmax([value / temperature for value in alike])
        weights[i] = shares / shares[i]
    return weights


def test_each_view_attends_as_the_other_asks() -> None:
    first, second = patches(0), patches(1)
    actual = mutual_attention(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(actual[0], oracle_attention(first, second))
    np.testing.assert_allclose(actual[1], oracle_attention(second, first))


def test_weights_equal_the_loop() -> None:
    first, second = patches(0), patches(1)
    actual = patch_weights(torch.from_numpy(first), torch.from_numpy(second), 0.2)
    np.testing.assert_allclose(actual, oracle_weights(first, second, 0.2))


def test_with_weights_of_one_on_the_diagonal_it_is_plain_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 8, generator=generator).sign()
    actual = weighted_contrastive_loss(first, second, torch.eye(6), 0.3)
    expected = torch.nn.functional.cross_entropy(first @ second.T / 8 / 0.3, torch.arange(6))
    torch.testing.assert_close(actual, expected)


def test_objective_equals_the_definition(batch: Any, build: Callable[..., Any]) -> None:
    method = build(WCH)
    maps = batch["view_maps"].double().numpy()  # [12, 2, 512, 2, 2]
    views = [maps[:, number].reshape(12, 512, 4).transpose(0, 2, 1) for number in (0, 1)]
    seen = [oracle_attention(views[0], views[1]), oracle_attention(views[1], views[0])]
    codes = []
    for one in seen:
        folded = torch.from_numpy(one.transpose(0, 2, 1).reshape(12, 512, 2, 2)).float()
        logits = method.encoder.logits(batch["views"][:, 0], folded).detach().numpy()
        codes.append(np.where(logits >= 0, 1.0, -1.0))
    logits = codes[0] @ codes[1].T / 8 / 0.3
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    terms = method.objective(batch)
    expected = -(oracle_weights(*seen, 0.2) * logs).sum(1).mean()
    assert terms["contrastive"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["balance"].item() == pytest.approx((codes[0].mean(0) ** 2).mean(), rel=1e-4)


def test_training_lowers_it(
    batch: Any, build: Callable[..., Any], losses_of_training: Callable[..., list[float]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(12, 1, 512, 1, 1, generator=generator)  # each image has patches of its own
    batch["view_maps"] = groups + 0.3 * torch.randn(12, 2, 512, 2, 2, generator=generator)
    losses = losses_of_training(build(WCH), batch)
    assert losses[-1] < 0.9 * losses[0]


def test_patches_and_a_frozen_backbone_are_needed(build: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"model\.branches"):
        build(WCH, branches="global")
    with pytest.raises(InputError, match="frozen backbone"):
        build(WCH, finetune=True)
