"""SDC: quantiles, calibration and objective against SciPy and loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from udmsh_pl.baselines import SDC
from udmsh_pl.baselines.sdc import beta_quantiles, calibration_loss
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def oracle(v: np.ndarray, f: np.ndarray, shape: float, orthogonal: bool) -> float:
    pairs = sorted(
        (cosine(f[i], f[j]), cosine(v[i], v[j]))
        for i in range(len(v))
        for j in range(i + 1, len(v))
    )
    total = 0.0
    for rank, (_, of_codes) in enumerate(pairs):
        target = 2 * stats.beta.ppf((rank + 0.5) / len(pairs), shape, shape) - 1
        total += abs(of_codes - (max(target, 0) if orthogonal else target))
    return total / len(pairs)


def test_quantiles_equal_scipys() -> None:
    expected = 2 * stats.beta(5, 5).ppf(np.arange(1, 14, 2) / 14) - 1
    np.testing.assert_allclose(beta_quantiles(7, 5.0), expected, atol=1e-6)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("shape", [5.0, 1.5])
def test_calibration_equals_the_loop(shape: float, orthogonal: bool) -> None:
    generator = np.random.default_rng(0)
    v, f = generator.standard_normal((9, 6)), generator.random((9, 11))
    actual = calibration_loss(torch.from_numpy(v), torch.from_numpy(f), shape, orthogonal)
    assert float(actual) == pytest.approx(oracle(v, f, shape, orthogonal), rel=1e-5)


def test_objective_equals_the_definition(batch: Any, build: Callable[..., Any]) -> None:
    method = build(SDC, quantisation_weight=0.5)
    v = method.logits(batch).detach().double().numpy()
    np.testing.assert_allclose(v.mean(0), 0, atol=1e-5)  # normalised over the batch
    errors = [1 - np.abs(row).sum() / np.sqrt(8 * (row @ row)) for row in v]
    terms = method.objective(batch)
    assert list(terms) == ["calibration", "quantisation"]
    expected = oracle(v, batch["global_feature"].double().numpy(), 5.0, True)
    assert terms["calibration"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["quantisation"].item() == pytest.approx(0.5 * np.mean(errors), rel=1e-3)


@pytest.mark.parametrize("contrastive", [0.0, 1.0])
def test_training_lowers_it(
    contrastive: float,
    batch: Any,
    build: Callable[..., Any],
    losses_of_training: Callable[..., list[float]],
) -> None:
    method = build(SDC, contrastive_weight=contrastive)
    losses = losses_of_training(method, batch)
    assert losses[-1] < 0.7 * losses[0]
    method.eval()
    assert method(batch).shape == (12, 8)


def test_views_are_needed_only_for_the_contrastive_term(
    batch: Any, build: Callable[..., Any]
) -> None:
    del batch["views"]
    assert torch.isfinite(build(SDC).objective(batch)["calibration"])
    with pytest.raises(InputError, match=r"data\.views"):
        build(SDC, contrastive_weight=1.0).train_rows(
            TrainFeatures({"global_feature": batch["global_feature"].numpy()})
        )
    with pytest.raises(InputError, match="frozen backbone"):
        build(SDC, contrastive_weight=1.0, finetune=True)
    with pytest.raises(InputError, match=r"model\.beta"):
        build(SDC, beta=0.0)
