import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import dcg_score
from tests.unit.retrieval import oracle

from udmsh_pl.retrieval import evaluate_codes, pack_codes


@pytest.mark.parametrize("denominator", ["retrieved", "min", "total"])
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(1, 6),
    k=st.integers(1, 7),
    bits=st.sampled_from([1, 2, 66]),
)
@settings(max_examples=60, deadline=None)
def test_graded_scores_equal_enumeration_over_orders(denominator, seed, items, k, bits):
    case = oracle.random_case(2, items, bits, 4, seed, share=0.5)
    graded = evaluate_codes(*case, bits, ks=(k,), denominator=denominator, threads=1).graded
    cut = min(k, items)
    grades = oracle.shared(case[2], case[3])
    for row, (d, g) in enumerate(zip(oracle.hamming(case[0], case[1]), grades, strict=True)):
        orders = list(oracle.orders(d))
        assert graded.wap_per_query[k][row] == pytest.approx(
            np.mean([oracle.wap(o, g, cut, denominator) for o in orders]), abs=1e-12
        )
        assert graded.ndcg_per_query[k][row] == pytest.approx(
            np.mean([oracle.ndcg(o, g, cut) for o in orders]), abs=1e-12
        )
        assert graded.acg_per_query[k][row] == pytest.approx(
            np.mean([g[o[:cut]].mean() for o in orders]), abs=1e-12
        )


def test_ndcg_is_scikit_learns_which_averages_over_ties_too():
    case = oracle.random_case(20, 400, 6, 12, share=0.3)
    graded = evaluate_codes(*case, 6, ks=(30, None)).graded
    gain = 2.0 ** oracle.shared(case[2], case[3]) - 1
    near = -oracle.hamming(case[0], case[1]).astype(float)
    for k in (30, None):
        for row in np.flatnonzero(gain.any(axis=1)):
            ideal = dcg_score(gain[row : row + 1], gain[row : row + 1], k=k, ignore_ties=True)
            theirs = dcg_score(gain[row : row + 1], near[row : row + 1], k=k) / ideal
            assert graded.ndcg_per_query[k][row] == pytest.approx(theirs, abs=1e-9)


def test_with_single_labels_weighted_ap_is_ap():
    rng = np.random.default_rng(0)
    codes = pack_codes(rng.random((300, 10)) < 0.5)
    labels = np.eye(4, dtype=bool)[rng.integers(0, 4, 300)]
    report = evaluate_codes(codes[:20], codes, labels[:20], labels, 10, ks=(25, None))
    for k in (25, None):
        assert report.graded.wap[k] == pytest.approx(report.map[k], abs=1e-12)
        assert report.graded.acg[k] == pytest.approx(report.precision_at(k), abs=1e-12)


def test_more_queries_than_a_block_and_none_relevant():
    case = oracle.random_case(600, 50, 8, 3)
    graded = evaluate_codes(*case, 8, ks=(10,)).graded
    single = evaluate_codes(
        case[0][300:301], case[1], case[2][300:301], case[3], 8, ks=(10,)
    ).graded
    assert graded.ndcg_per_query[10][300] == single.ndcg_per_query[10][0]
    empty = evaluate_codes(case[0], case[1], case[2], np.zeros_like(case[3]), 8, ks=(10,)).graded
    assert empty.ndcg[10] == empty.wap[10] == empty.acg[10] == 0.0
