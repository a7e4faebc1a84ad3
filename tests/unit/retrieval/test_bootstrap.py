import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.bootstrap import (
    bootstrap_interval,
    paired_difference,
    paired_differences,
)

RNG = np.random.default_rng(0)
HARDNESS = RNG.random(400)


def test_interval_is_near_that_of_the_normal_distribution():
    low, high = bootstrap_interval(HARDNESS, samples=4000)
    half = 1.96 * HARDNESS.std(ddof=1) / np.sqrt(len(HARDNESS))
    assert low == pytest.approx(HARDNESS.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(HARDNESS.mean() + half, abs=0.1 * half)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).beta(2, 5, 80)
        low, high = bootstrap_interval(values, 0.9, samples=150, seed=seed)
        covered += low <= 2 / 7 <= high
    assert 0.83 <= covered / 200 <= 0.96


def test_equal_seeds_give_equal_intervals():
    assert bootstrap_interval(HARDNESS, seed=3) == bootstrap_interval(HARDNESS, seed=3)
    assert bootstrap_interval(HARDNESS, seed=3) != bootstrap_interval(HARDNESS, seed=4)


def test_one_query_gives_a_point():
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)


def test_pairs_find_what_two_intervals_hide():
    better = HARDNESS + 0.01 + 0.02 * RNG.standard_normal(400)
    low, high = bootstrap_interval(better), bootstrap_interval(HARDNESS)
    assert low[0] < high[1]  # the separate intervals overlap
    difference = paired_difference(better, HARDNESS)
    assert 0.0 < difference.lower < difference.mean < difference.upper
    assert difference.p_value < 0.01


def test_no_difference_is_not_significant():
    same = paired_difference(HARDNESS, HARDNESS)
    assert (same.mean, same.lower, same.upper, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_values_of_equal_methods_are_spread_evenly():
    values = []
    for seed in range(200):
        first, second = np.random.default_rng(seed).random((2, 60))
        values.append(paired_difference(first, second, samples=200, seed=seed).p_value)
    assert 0.0 <= np.mean(np.array(values) < 0.1) <= 0.17
    assert 0.4 <= np.mean(values) <= 0.6


def test_an_interval_is_about_other_seeds_too():
    """Seeds that differ widen it, and both kinds of units have the spread that theory gives."""
    rng = np.random.default_rng(5)
    queries, seeds = 0.1 * rng.standard_normal(300), 0.05 * rng.standard_normal(40)
    other = np.full((1, 300), 0.3)
    alike = paired_difference(np.broadcast_to(0.5 + queries, (40, 300)), other)
    apart = paired_difference(0.5 + queries + seeds[:, None], other)
    for found, variance in ((alike, 0.0), (apart, seeds.var() / 40)):
        half = 1.96 * np.sqrt(queries.var() / 300 + variance)
        assert found.upper - found.lower == pytest.approx(2 * half, rel=0.1)
        assert found.lower < found.mean < found.upper


def test_each_method_is_compared_with_each_other_on_the_same_resamples():
    scores = {name: np.random.default_rng(seed).random((3, 50)) for seed, name in enumerate("abc")}
    found = paired_differences(scores)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), lead in found.items():
        assert lead.mean == pytest.approx(scores[first].mean() - scores[second].mean())
    assert found["a", "b"].mean + found["b", "c"].mean == pytest.approx(found["a", "c"].mean)
    assert paired_differences({"a": scores["a"]}) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.array([])), "no values"),
        (lambda: bootstrap_interval(HARDNESS, confidence=1.0), "confidence is 1.0"),
        (lambda: bootstrap_interval(HARDNESS, samples=0), "samples is 0"),
        (lambda: paired_difference(HARDNESS, HARDNESS[:3]), "first has 400 queries, second 3"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(InputError, match=message):
        call()
