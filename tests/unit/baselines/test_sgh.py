"""Scalable graph hashing against the dense residual matrix, built pair by pair."""

import math

import numpy as np
import pytest

from udmsh_pl.baselines import SGH
from udmsh_pl.errors import InputError


def features(rows: int = 40, dim: int = 7) -> np.ndarray:
    return np.random.default_rng(0).random((rows, dim)).astype(np.float32) * 5


def oracle(data: np.ndarray, bits: int, anchors: np.ndarray) -> np.ndarray:
    """Codes by explicit P, Q and N x N residual, eigenvectors by the plain solver."""
    x = data.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    distances = np.array([[((a - x[b]) ** 2).sum() for b in anchors] for a in x])
    kernel = np.exp(-distances / (2 * distances.mean()))
    kernel -= kernel.mean(0)
    rho = 2
    falls = np.exp(-(x**2).sum(1) / rho)[:, None]
    shared = [
        math.sqrt(2 * (math.e**2 - 1) / (math.e * rho)) * falls * x,
        math.sqrt((math.e**2 + 1) / math.e) * falls,
    ]
    p = np.hstack([*shared, np.ones((len(x), 1))])
    q = np.hstack([*shared, -np.ones((len(x), 1))])
    exact = 2 * np.exp(-np.array([[((a - b) ** 2).sum() for b in x] for a in x]) / rho) - 1
    assert np.abs(p @ q.T - exact).max() < 0.5  # the line is farthest from e^t at t = 0
    codes = np.zeros((len(x), bits))
    metric = np.linalg.inv(kernel.T @ kernel + 1e-6 * np.eye(len(anchors)))
    for _ in range(2):
        for bit in range(bits):
            others = np.delete(codes, bit, axis=1)
            residual = bits * p @ q.T - others @ others.T
            values, vectors = np.linalg.eig(metric @ kernel.T @ residual @ kernel)
            codes[:, bit] = np.where(kernel @ vectors[:, values.real.argmax()].real >= 0, 1, -1)
    return codes


def test_codes_equal_the_dense_residuals() -> None:
    data = features()
    method = SGH(bits=5, seed=3, anchors=12)
    method.fit(data)
    expected = oracle(data, 5, np.random.default_rng(3).permutation(40)[:12])
    values = method.project(data)
    assert values.dtype == np.float32
    codes = np.where(values >= 0, 1, -1)
    assert (np.abs((codes * expected).mean(0)) == 1).all()  # an eigenvector's sign is arbitrary


def test_few_images_many_bits_and_one_seed() -> None:
    data = features(rows=20)
    values = []
    for seed in (0, 0, 1):
        method = SGH(bits=32, seed=seed, anchors=8)
        method.fit(data)
        values.append(method.project(data))
    assert values[0].shape == (20, 32)
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_one_anchor_is_refused() -> None:
    with pytest.raises(InputError, match="1 anchors"):
        SGH(anchors=1)
