import itertools

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tests.unit.retrieval import oracle

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import evaluate_codes, pack_codes

DENOMINATORS = ("retrieved", "min", "total")


@st.composite
def small_tasks(draw):
    bits, labels = draw(st.sampled_from([1, 2, 3, 9, 70])), draw(st.integers(1, 3))
    queries, items = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    codes = [pack_codes(rng.random((n, bits)) < 0.5) for n in (queries, items)]
    return (*codes, *(rng.random((n, labels)) < 0.5 for n in (queries, items)), bits), draw(
        st.integers(1, 8)
    )


@pytest.mark.parametrize("denominator", DENOMINATORS)
@given(task=small_tasks())
@settings(max_examples=60, deadline=None)
def test_all_values_equal_enumeration_over_orders(denominator, task):
    case, k = task
    report = evaluate_codes(*case, ks=(k, None), denominator=denominator, threads=1)
    distance, relevant = oracle.hamming(case[0], case[1]), oracle.shared(case[2], case[3]) > 0
    for row, (d, r) in enumerate(zip(distance, relevant, strict=True)):
        values = [oracle.ap(order, r, k, denominator) for order in oracle.orders(d)]
        assert report.average_precision[k][row] == pytest.approx(np.mean(values), abs=1e-12)
        stable = oracle.ap(np.argsort(d, kind="stable"), r, k, denominator)
        assert report.id_average_precision[k][row] == pytest.approx(stable, abs=1e-12)
    for means, choose in ((report.map_worst, min), (report.map_best, max)):
        extreme = [
            choose(oracle.ap(order, r, k, denominator) for order in oracle.orders(d))
            for d, r in zip(distance, relevant, strict=True)
        ]
        assert means[k] == pytest.approx(np.mean(extreme), abs=1e-12)


@given(task=small_tasks())
@settings(max_examples=60, deadline=None)
def test_precision_recall_and_hit_rate_at_k_equal_enumeration(task):
    case, k = task
    report = evaluate_codes(*case, threads=1)
    cut = min(k, len(case[1]))
    expected = np.zeros(3)
    for d, r in zip(
        oracle.hamming(case[0], case[1]), oracle.shared(case[2], case[3]) > 0, strict=True
    ):
        tops = np.array([r[order][:cut] for order in oracle.orders(d)])
        found = tops.sum(axis=1).mean()
        expected += np.array([found / cut, found / max(r.sum(), 1), tops.any(axis=1).mean()]) / len(
            case[0]
        )
    measured = [report.precision_at(k), report.recall_at(k), report.hit_rate_at(k)]
    assert measured == pytest.approx(expected, abs=1e-12)


def test_radius_measures_equal_a_naive_loop():
    case = oracle.random_case(40, 300, 8, 4, share=0.1)
    report = evaluate_codes(*case, 8)
    distance, relevant = oracle.hamming(case[0], case[1]), oracle.shared(case[2], case[3]) > 0
    precisions, recalls = report.precision_recall_curve()
    for radius in range(9):
        p, r, empty = [], [], []
        for d, hit in zip(distance, relevant, strict=True):
            inside = d <= radius
            p.append((hit & inside).sum() / inside.sum() if inside.any() else 0.0)
            r.append((hit & inside).sum() / hit.sum() if hit.any() else 0.0)
            empty.append(not inside.any())
        near = report.within_radius(radius)
        assert near == pytest.approx(
            {"precision": np.mean(p), "recall": np.mean(r), "empty": np.mean(empty)}
        )
        assert (precisions[radius], recalls[radius]) == pytest.approx((np.mean(p), np.mean(r)))
    assert report.within_radius(0)["empty"] > 0  # the case has empty lookups at all


def test_row_order_is_that_of_faiss():
    case = oracle.random_case(30, 2000, 16, 5)
    index = faiss.IndexBinaryFlat(16)
    index.add(case[1])
    relevant = oracle.shared(case[2], case[3]) > 0
    for heap, k in itertools.product((True, False), (7, 500, 2000)):
        index.use_heap = heap
        rankings = index.search(case[0], k)[1]
        values = [
            oracle.ap(ranking, r, k, "retrieved")
            for ranking, r in zip(rankings, relevant, strict=True)
        ]
        assert evaluate_codes(*case, 16, ks=(k,), ties="id").map[k] == pytest.approx(
            np.mean(values), abs=1e-12
        )


def no_ties(seed: int):
    """33 items at 33 distances from the query, in random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(33)
    query, database = np.zeros((1, 40), bool), np.tri(33, 40, -1, dtype=bool)[order]
    labels = rng.random((33, 1)) < 0.4
    labels[rng.integers(33)] = True
    return pack_codes(query), pack_codes(database), np.ones((1, 1), bool), labels


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_it_is_scikit_learns_and_torchmetrics_value(seed):
    import torch
    from torchmetrics.functional.retrieval import retrieval_average_precision

    case = no_ties(seed)
    report = evaluate_codes(*case, 40, ks=(10, None))
    near = 41 - oracle.hamming(case[0], case[1])[0]
    assert report.map[None] == pytest.approx(
        average_precision_score(case[3][:, 0], near), abs=1e-12
    )
    target = torch.from_numpy(case[3][:, 0])
    for k, top in ((10, 10), (None, None)):
        theirs = retrieval_average_precision(torch.from_numpy(near).float(), target, top_k=top)
        ours = evaluate_codes(*case, 40, ks=(k,)).map[k]
        assert ours == pytest.approx(float(theirs), abs=1e-6)
    for other in (report.map_worst, report.map_best, report.map_id):
        assert other == pytest.approx(report.map, abs=1e-12)


def test_negative_distances_as_scores_are_a_trap_in_torchmetrics_and_shifted_ones_are_not():
    import torch
    from torchmetrics.functional.retrieval import retrieval_average_precision

    case = no_ties(0)
    distance = torch.from_numpy(oracle.hamming(case[0], case[1])[0]).float()
    target = torch.from_numpy(case[3][:, 0])
    assert float(retrieval_average_precision(-distance, target)) == 0.0
    ours = evaluate_codes(*case, 40).map[None]
    assert float(retrieval_average_precision(41 - distance, target)) == pytest.approx(
        ours, abs=1e-6
    )


def test_constant_codes_score_one_tie_group_whatever_the_row_order():
    classes = np.repeat(np.arange(10), 100)  # sorted by class, the worst case
    labels = classes[:, None] == np.arange(10)
    codes = np.zeros((1000, 4), np.uint8)
    n, r = 1000, 100
    rho = (r - 1) / (n - 1)
    closed = ((1 - rho) * np.sum(1 / np.arange(1, n + 1)) + rho * n) / n
    values = []
    for seed in (None, 0, 1):
        rows = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
        report = evaluate_codes(codes[:10], codes, np.eye(10, dtype=bool), labels[rows], 32)
        values.append(report.map[None])
        assert report.map[None] == pytest.approx(closed, abs=1e-12)
    assert values[0] == values[1] == values[2]
    assert closed == pytest.approx(0.1, abs=0.01)  # near chance
    sorted_rows = evaluate_codes(codes[:10], codes, np.eye(10, dtype=bool), labels, 32)
    assert sorted_rows.map_id[None] > 0.2  # what order by row makes of it


def test_shuffling_the_database_changes_nothing():
    case = oracle.random_case(20, 1500, 6, 4)
    rows = np.random.default_rng(1).permutation(1500)
    shuffled = (case[0], case[1][rows], case[2], case[3][rows])
    one, other = (evaluate_codes(*c, 6, ks=(10, 400, None)) for c in (case, shuffled))
    for k in (10, 400, None):
        assert (one.average_precision[k] == other.average_precision[k]).all()
        assert one.map_best[k] == other.map_best[k]
        assert one.map_worst[k] == other.map_worst[k]
    assert one.map_id != other.map_id


def test_sorting_the_database_by_class_moves_the_row_order_value_only():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 10, 3000)
    codes = pack_codes(rng.random((3000, 4)) < 0.2 + 0.06 * classes[:, None])
    labels = classes[:, None] == np.arange(10)
    rows = np.argsort(classes, kind="stable")
    plain = evaluate_codes(codes[:300], codes, labels[:300], labels, 4, ks=(1000,))
    by_class = evaluate_codes(codes[:300], codes[rows], labels[:300], labels[rows], 4, ks=(1000,))
    assert plain.map[1000] == pytest.approx(by_class.map[1000], abs=1e-12)
    assert abs(plain.map_id[1000] - by_class.map_id[1000]) > 0.02


def test_all_includes_the_last_item_and_a_k_beyond_the_database_is_all():
    # the only relevant item is the last of the ranking: gnd[0:-1] would lose it
    database = pack_codes(np.tri(4, 3, -1, dtype=bool))
    labels = np.array([[False], [False], [False], [True]])
    report = evaluate_codes(
        pack_codes([[-1.0, -1, -1]]),
        database,
        np.ones((1, 1), bool),
        labels,
        3,
        ks=(3, 4, 99, None),
    )
    assert report.map == pytest.approx({3: 0.0, 4: 0.25, 99: 0.25, None: 0.25}, abs=1e-12)


def test_queries_without_hits_count_zero_or_are_dropped():
    database = pack_codes(np.tri(4, 3, -1, dtype=bool))
    labels = np.array([[True, False], [False, False], [False, False], [False, True]])
    queries, wanted = pack_codes(np.full((2, 3), -1.0)), np.eye(2, dtype=bool)
    kept = evaluate_codes(queries, database, wanted, labels, 3, ks=(2, None))
    dropped = evaluate_codes(queries, database, wanted, labels, 3, ks=(2, None), zero_hits="drop")
    assert kept.map == pytest.approx({2: 0.5, None: 0.625})
    assert dropped.map == pytest.approx(
        {2: 1.0, None: 0.625}
    )  # inside 2 the second query has no hit; in all it has
    for other in (dropped.map_id, dropped.map_best, dropped.map_worst):
        assert other == pytest.approx(dropped.map)
    nothing = evaluate_codes(queries, database, wanted, np.zeros_like(labels), 3, zero_hits="drop")
    assert nothing.map[None] == 0.0


def test_a_report_knows_its_confidence_and_its_cutoffs():
    report = evaluate_codes(*oracle.random_case(50, 200, 8, 3), 8, ks=(20, None))
    low, high = report.interval(None)
    assert low < report.map[None] < high
    with pytest.raises(InputError, match="add it to ks"):
        report.interval(21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "need \\[items, 2\\]"),
        ({"bits": 0}, "at least one bit"),
        ({"ks": (0,)}, "from 1"),
        ({"ks": (1.5,)}, "from 1"),
        ({"ks": (True,)}, "from 1"),
        ({"ks": ()}, "ks is empty"),
        ({"ties": "random"}, "expected, id"),
        ({"denominator": "all"}, "retrieved, min, total"),
        ({"zero_hits": "keep"}, "zero, drop"),
        (
            {"query_codes": np.zeros((0, 1), np.uint8), "query_labels": np.zeros((0, 3), bool)},
            "nothing to score",
        ),
        ({"query_labels": np.ones((4, 2), bool)}, "2 columns"),
        ({"query_labels": np.ones((3, 3), bool)}, "3 rows"),
        ({"database_codes": np.zeros((9, 1))}, "pack_codes"),
    ],
)
def test_misuse_is_named(change, message):
    names = ("query_codes", "database_codes", "query_labels", "database_labels")
    arguments = dict(zip(names, oracle.random_case(4, 9, 8, 3), strict=True)) | {"bits": 8} | change
    with pytest.raises(InputError, match=message):
        evaluate_codes(**arguments)
