from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from tests.unit.retrieval import oracle

from udmsh_pl.retrieval.ties import (
    Groups,
    expected_average_precision,
    extreme_average_precision,
    harmonic_difference,
    tied_sum,
)


@st.composite
def small_lists(draw):
    distance = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    relevant = draw(st.lists(st.booleans(), min_size=len(distance), max_size=len(distance)))
    return np.array(distance), np.array(relevant), draw(st.integers(1, len(distance)))


def groups_of(distance: np.ndarray, relevant: np.ndarray) -> Groups:
    size = int(distance.max()) + 2
    items, hits = (
        np.bincount(distance, minlength=size),
        np.bincount(distance[relevant], minlength=size),
    )
    return Groups.of(items[None], hits[None])


@pytest.mark.parametrize("denominator", ["retrieved", "min", "total"])
@given(case=small_lists())
@settings(max_examples=150, deadline=None)
def test_expected_best_and_worst_equal_enumeration(denominator, case):
    distance, relevant, k = case
    values = [oracle.ap(order, relevant, k, denominator) for order in oracle.orders(distance)]
    groups = groups_of(distance, relevant)
    worst, best = extreme_average_precision(groups, k, denominator)
    assert expected_average_precision(groups, k, denominator)[0] == pytest.approx(
        np.mean(values), abs=1e-13
    )
    assert worst[0] == pytest.approx(min(values), abs=1e-13)
    assert best[0] == pytest.approx(max(values), abs=1e-13)


@given(low=st.integers(0, 3_000_000), steps=st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_harmonic_difference_keeps_its_digits_far_out(low, steps):
    exact = float(sum(Fraction(1, low + i) for i in range(1, steps + 1)))
    found = float(harmonic_difference(np.array([float(low)]), np.array([float(low + steps)]))[0])
    assert found == pytest.approx(exact, rel=1e-14, abs=0)


def test_a_pair_of_hits_a_million_places_down():
    # tabled harmonic numbers lose this one in the ninth digit
    groups = Groups.of(np.array([[1_000_000, 2]]), np.array([[0, 2]]))
    exact = (Fraction(1, 1_000_001) + Fraction(2, 1_000_002)) / 2
    assert expected_average_precision(groups, 1_000_002, "retrieved")[0] == pytest.approx(
        float(exact), rel=1e-12
    )


@pytest.mark.parametrize(
    ("n", "r", "s", "before", "hits"),
    [
        (60_000, 9_000, 4_000, 1_000, 700),
        (150_000, 40, 5_000, 0, 0),
        (5_001, 5_000, 5_000, 0, 0),
        (900, 450, 1, 99, 0),
    ],
)
def test_a_large_cut_group_equals_the_sum_over_scipys_hypergeometric(n, r, s, before, hits):
    groups = Groups.of(np.array([[before, n]]), np.array([[hits, r]]))
    done = float(
        tied_sum(*(np.array([float(x)]) for x in (max(before, 1), hits, hits, 0, 0, before)))[0]
    )
    value = 0.0
    for x in range(max(0, s - (n - r)), min(r, s) + 1):
        if hits + x:
            inside = tied_sum(*(np.array([float(v)]) for v in (s, x, x, before, hits, s)))[0]
            value += hypergeom.pmf(x, n, r, s) * (done + inside) / (hits + x)
    assert expected_average_precision(groups, before + s, "retrieved")[0] == pytest.approx(
        value, rel=1e-9
    )


def test_worst_and_best_bracket_the_expected_on_large_lists():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 500, (200, 65))
    groups = Groups.of(items, rng.binomial(items, rng.random((200, 1))))
    for k in (1, 100, 5000, int(items.sum(axis=1).min())):
        for denominator in ("retrieved", "min", "total"):
            worst, best = extreme_average_precision(groups, k, denominator)
            expected = expected_average_precision(groups, k, denominator)
            assert (worst <= expected + 1e-12).all()
            assert (expected <= best + 1e-12).all()
            assert (best <= 1 + 1e-12).all()
            assert (worst >= 0).all()
