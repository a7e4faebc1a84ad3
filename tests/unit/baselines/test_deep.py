"""The shared pieces against loops: sign and its gradient, pair cosines, the matching loss."""

import numpy as np
import pytest
import torch

from udmsh_pl.baselines.deep import cosine_matching_loss, pair_cosines, straight_through_sign
from udmsh_pl.errors import InputError


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_sign_is_exact_and_passes_the_gradient() -> None:
    values = torch.tensor([[-1e-8, 0.0, 3.3], [1e9, -0.1, 0.7]], requires_grad=True)
    codes = straight_through_sign(values)
    assert codes.tolist() == [[-1, 1, 1], [1, -1, 1]]
    weights = torch.randn(2, 3)
    (codes * weights).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, weights)


def test_matching_loss_equals_the_double_loop() -> None:
    generator = np.random.default_rng(0)
    codes, features = np.sign(generator.standard_normal((7, 5))), generator.random((7, 9))
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    expected = np.mean(
        [(cosine(codes[i], codes[j]) - cosine(features[i], features[j])) ** 2 for i, j in pairs]
    )
    actual = cosine_matching_loss(torch.from_numpy(codes), torch.from_numpy(features))
    assert float(actual) == pytest.approx(expected)
    np.testing.assert_allclose(
        pair_cosines(torch.from_numpy(features)),
        [cosine(features[i], features[j]) for i, j in pairs],
    )


def test_one_image_has_no_pairs() -> None:
    with pytest.raises(InputError, match="batch_size"):
        pair_cosines(torch.ones(1, 3))
