"""NSH: soft sorting and SortedNCE against loops; codes learn through the sorter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from udmsh_pl.baselines import NSH
from udmsh_pl.baselines.nsh import soft_sort, sorted_nce_loss
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True))
def test_a_cold_sorter_sorts(values: list[int]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    order = soft_sort(row, 0.01)
    torch.testing.assert_close(order.sum(2), torch.ones_like(row))
    torch.testing.assert_close(order[0] @ row[0], row[0].sort(descending=True).values)


def test_softsort_equals_its_formula() -> None:
    values = np.random.default_rng(0).random((3, 5))
    actual = soft_sort(torch.from_numpy(values), 0.2).numpy()
    for i, row in enumerate(values):
        for r, ranked in enumerate(sorted(row, reverse=True)):
            weights = np.exp(-np.abs(ranked - row) / 0.2)
            np.testing.assert_allclose(actual[i, r], weights / weights.sum())


def test_sorted_nce_equals_the_loop() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 7))
    total = 0.0
    for row in scores:
        for r in range(2):
            total -= np.log(np.exp(row[r]) / (np.exp(row[r]) + np.exp(row[2:]).sum()))
    actual = sorted_nce_loss(torch.from_numpy(scores), 2)
    assert float(actual) == pytest.approx(total / 8)
    with pytest.raises(InputError, match=r"model\.positives"):
        sorted_nce_loss(torch.from_numpy(scores), 7)


def test_objective_equals_the_definition(batch: Any, build: Callable[..., Any]) -> None:
    method = build(NSH, positives=2)
    codes, latents = [], []
    for number in (0, 1):
        view = {"global_feature": batch["views"][:, number]}
        codes.append(np.where(method.logits(view).detach().numpy() >= 0, 1.0, -1.0))
        z = method.latent_head(batch["views"][:, number]).detach().double().numpy()
        latents.append(z / np.linalg.norm(z, axis=1, keepdims=True))
    scores = np.empty((12, 12))
    for i in range(12):
        alike = (1 + codes[0][i] @ codes[1].T / 8) / 2
        for r, ranked in enumerate(sorted(alike, reverse=True)):
            weights = np.exp(-np.abs(ranked - alike) / 0.05)
            gathered = (weights / weights.sum()) @ latents[1]
            scores[i, r] = latents[0][i] @ gathered / 0.3
    expected = float(sorted_nce_loss(torch.from_numpy(scores), 2))
    assert method.objective(batch)["sorted_nce"].item() == pytest.approx(expected, rel=1e-4)


def test_codes_get_a_gradient_and_training_lowers_the_loss(
    batch: Any, build: Callable[..., Any], losses_of_training: Callable[..., list[float]]
) -> None:
    method = build(NSH, positives=2)
    method.objective(batch)["sorted_nce"].backward()
    assert float(method.encoder.hash_layer.weight.grad.abs().sum()) > 0
    losses = losses_of_training(method, batch)  # of the hash head alone
    assert losses[-1] < losses[0]


def test_views_of_a_frozen_backbone_are_needed(batch: Any, build: Callable[..., Any]) -> None:
    del batch["views"]
    with pytest.raises(InputError, match=r"data\.views"):
        build(NSH).train_rows(TrainFeatures({"global_feature": batch["global_feature"].numpy()}))
    with pytest.raises(InputError, match="frozen backbone"):
        build(NSH, finetune=True)
