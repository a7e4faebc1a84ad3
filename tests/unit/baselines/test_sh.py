"""Spectral hashing against a loop over components and modes."""

import math

import numpy as np
import pytest

from udmsh_pl.baselines import SH


def features(rows: int = 80, dim: int = 6) -> np.ndarray:
    generator = np.random.default_rng(3)
    return (generator.standard_normal((rows, dim)) * np.linspace(4, 1, dim) + 2).astype(np.float32)


def oracle(train: np.ndarray, data: np.ndarray, bits: int) -> np.ndarray:
    """The three steps of the paper, one number at a time."""
    mean = train.mean(0)
    _, _, directions = np.linalg.svd(
        train - mean, full_matrices=False
    )  # another road to the components than ours
    directions = directions[: min(bits, train.shape[1])]
    found = []
    for component, direction in enumerate(directions):
        along = [float((row - mean) @ direction) for row in train]
        low, high = min(along), max(along)
        for mode in range(1, bits + 1):
            found.append(((mode * math.pi / (high - low)) ** 2, component, mode, low, high))
    found.sort()
    out = np.empty((len(data), bits))
    for bit, (_, component, mode, low, high) in enumerate(found[:bits]):
        for row, values in enumerate(data):
            x = float((values - mean) @ directions[component]) - low
            out[row, bit] = math.sin(math.pi / 2 + mode * math.pi / (high - low) * x)
    return out


@pytest.mark.parametrize("bits", [3, 6, 17])  # fewer bits than dimensions, as many, and more
def test_values_equal_the_loops(bits: int) -> None:
    data = features()
    method = SH(bits)
    method.fit(data)
    expected, actual = oracle(data, data[:20], bits), method.project(data[:20])
    assert actual.dtype == np.float32
    assert actual.shape == (20, bits)
    # a component's sign is arbitrary; turning it round mirrors its box, which at most negates odd
    # modes
    for bit in range(bits):
        negated = (
            np.abs(actual[:, bit] + expected[:, bit]).max()
            < np.abs(actual[:, bit] - expected[:, bit]).max()
        )
        np.testing.assert_allclose(
            actual[:, bit], -expected[:, bit] if negated else expected[:, bit], atol=2e-4
        )


def test_a_wide_component_gives_several_bits() -> None:
    data = features(dim=2) * np.float32([8, 1])
    method = SH(4)
    method.fit(data)
    assert (method.components == method.components[0]).all()
    values = method.project(data)
    assert np.abs(values).max() <= 1 + 1e-6
    assert len(np.unique(values >= 0, axis=0)) == 10  # modes 1 to 4 cut a line at 9 places


def test_constant_dimensions_do_no_harm() -> None:
    data = np.concatenate([features(), np.ones((80, 3), np.float32)], axis=1)
    method = SH(9)
    method.fit(data)
    assert np.isfinite(method.project(data)).all()
