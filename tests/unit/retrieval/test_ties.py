import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.retrieval import oracle
from udmsh_pl.retrieval.extremes import extreme_average_precision
from udmsh_pl.retrieval.ties import Groups, expected_average_precision, harmonic_difference


@st.composite
def small_lists(draw):
    distance = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    relevant = draw(st.lists(st.booleans(), min_size=len(distance), max_size=len(distance)))
    return np.array(distance), np.array(relevant), draw(st.integers(1, len(distance)))


@pytest.mark.parametrize("denominator", ["retrieved", "min", "total"])
@given(case=small_lists())
@settings(max_examples=120, deadline=None)
def test_expected_best_and_worst_equal_enumeration(denominator, case):
    distance, relevant, k = case
    items = np.bincount(distance, minlength=4)[None]
    hits = np.bincount(distance[relevant], minlength=4)[None]
    values = [oracle.ap(order, relevant, k, denominator) for order in oracle.orders(distance)]
    groups = Groups.of(items, hits)
    worst, best = extreme_average_precision(groups, k, denominator)
    assert expected_average_precision(groups, k, denominator)[0] == pytest.approx(np.mean(values), abs=1e-13)
    assert worst[0] == pytest.approx(min(values), abs=1e-13)
    assert best[0] == pytest.approx(max(values), abs=1e-13)
