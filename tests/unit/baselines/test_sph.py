"""Spherical hashing: the two properties the paper asks for, and the distances by hand."""

import numpy as np
import pytest

from udmsh_pl.baselines import SpH
from udmsh_pl.errors import InputError


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((600, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(data: np.ndarray) -> SpH:
    method = SpH(bits=8, seed=1)
    method.fit(data)
    return method


def test_each_sphere_holds_half_and_two_share_a_quarter(data: np.ndarray, fitted: SpH) -> None:
    inside = fitted.project(data) >= 0
    np.testing.assert_allclose(inside.mean(0), 0.5, atol=2 / len(data))
    shares = [
        float((inside[:, i] & inside[:, j]).mean()) for i in range(8) for j in range(8) if i != j
    ]
    deviations = np.abs(np.array(shares) - 0.25) / 0.25
    assert deviations.mean() <= 0.101
    assert np.std(np.array(shares) / 0.25) <= 0.151


def test_the_first_pivots_alone_would_not_do(data: np.ndarray) -> None:
    method = SpH(bits=8, seed=1, iterations=1)
    method.fit(data)
    inside = method.project(data) >= 0
    shares = np.array([(inside[:, i] & inside[:, j]).mean() for i in range(8) for j in range(i)])
    assert np.abs(shares - 0.25).mean() / 0.25 > 0.101


def test_one_move_equals_the_loops(data: np.ndarray) -> None:
    start, moved = SpH(bits=4, seed=2, iterations=1), SpH(bits=4, seed=2, iterations=2)
    start.mean_tolerance = moved.mean_tolerance = -1.0  # never satisfied
    start.fit(data)
    moved.fit(data)
    pivots = start.pivots.astype(np.float64)
    distances = np.array([[np.sqrt(((x - p) ** 2).sum()) for p in pivots] for x in data])
    inside = distances <= np.median(distances, axis=0)
    expected = pivots.copy()
    for i in range(4):
        for j in range(4):
            shared = (inside[:, i] & inside[:, j]).sum()
            quarter = len(data) / 4
            if i != j:
                expected[i] += 0.5 * (shared - quarter) / quarter * (pivots[i] - pivots[j]) / 4
    np.testing.assert_allclose(moved.pivots, expected, atol=1e-4)


def test_values_are_squared_radius_less_squared_distance(data: np.ndarray, fitted: SpH) -> None:
    values = fitted.project(data[:15])
    assert values.dtype == np.float32
    for row in range(15):
        for bit in range(8):
            distance = float(((data[row] - fitted.pivots[bit]) ** 2).sum())
            assert values[row, bit] == pytest.approx(
                float(fitted.squared_radii[bit]) - distance, abs=1e-4
            )


def test_the_seed_decides_and_more_bits_than_dimensions_are_fine(data: np.ndarray) -> None:
    values = []
    for seed in (0, 0, 1):
        method = SpH(bits=16, seed=seed, sample=200, iterations=20)
        method.fit(data)
        values.append(method.project(data))
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    single = SpH(bits=1)
    single.fit(data)
    assert single.project(data).shape == (600, 1)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="sample 2"):
        SpH(sample=2)
