"""mAP in order of rows is the same number, whoever ranks: the evaluator, or a FAISS index."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import BinaryIndex, evaluate_codes, gpu
from udmsh_pl.retrieval.codes import WordArrays, code_words, label_words
from udmsh_pl.retrieval.evaluation import Evaluation, each_faiss_ranking

from . import oracle


def means(case, bits, ks, **options):
    report = evaluate_codes(*case, bits, ks=ks, **options)
    return [report.map_id[k] for k in report.ks]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 60),
    st.integers(1, 20),  # few bits: nearly all items are tied
    st.integers(1, 70),  # labels beyond one word
    st.integers(0, 99),
    st.sampled_from(["retrieved", "min", "total"]),
    st.sampled_from(["zero", "drop"]),
)
def test_faiss_ranks_as_the_exact_evaluator(
    queries, items, bits, labels, seed, denominator, zero_hits
) -> None:
    case = oracle.random_case(queries, items, bits, labels, seed)
    options = {"denominator": denominator, "zero_hits": zero_hits}
    for ks in ((1, 5), (None,), (7, None)):
        exact = means(case, bits, ks, **options)
        assert means(case, bits, ks, engine="faiss", **options) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("k", [255, 256, 900])  # FAISS's heap, its counting search, all items
def test_every_way_of_the_flat_index_gives_the_oracle(k) -> None:
    query, database, wanted, have = case = oracle.random_case(5, 900, 6, 3, seed=3)
    relevant = oracle.shared(wanted, have) > 0
    words = WordArrays(*map(code_words, case[:2]), *map(label_words, case[2:]))
    found = {}
    each_faiss_ranking(words, 6, k, found.__setitem__, found_at_once=2 * k)  # two queries at a time
    for row, ranks in found.items():
        order = np.argsort(oracle.hamming(query, database)[row], kind="stable")[:k]
        assert (ranks == np.flatnonzero(relevant[row][order]) + 1).all()
    assert sorted(found) == list(range(5))
    expected = [
        oracle.ap(np.argsort(row, kind="stable"), marks, k, "retrieved")
        for row, marks in zip(oracle.hamming(query, database), relevant, strict=True)
    ]
    assert means(case, 6, (k,), engine="faiss") == pytest.approx([np.mean(expected)], abs=1e-12)


def careless(query, database, k, number):
    """What FAISS promises on a GPU: the right distances, and any of the tied items."""
    far = oracle.hamming(query, database)
    order = np.random.default_rng(number).permutation(len(database))
    rows = np.stack([order[np.argsort(row[order], kind="stable")][:k] for row in far])
    return np.take_along_axis(far, rows, 1).astype(np.int32), rows.astype(np.int64)


@pytest.mark.parametrize("k", [1, 20, 300])
def test_ties_that_a_gpu_orders_carelessly_are_put_in_order(k) -> None:
    case = oracle.random_case(4, 300, 5, 3, seed=1)
    flat = BinaryIndex(5)
    flat.add(case[1])
    ordered = gpu.in_order_of_rows(*careless(*case[:2], k, 7), *case[:2])
    for found, expected in zip(ordered, flat.search(case[0], k), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (careless(*case[:2], 20, 7)[1] != flat.search(case[0], 20)[1]).any()


def test_more_neighbours_than_faiss_gives_on_a_gpu_are_torchs(monkeypatch) -> None:
    monkeypatch.setattr("faiss.StandardGpuResources", object, raising=False)
    monkeypatch.setattr("faiss.get_num_gpus", lambda: 1, raising=False)
    assert gpu.faiss_serves(2048, torch.device("cuda:0"))
    assert not gpu.faiss_serves(2049, torch.device("cuda:0"))
    assert not gpu.faiss_serves(1, torch.device("cpu"))
    case = oracle.random_case(2, 60, 5, 3, seed=1)
    exact = BinaryIndex(5)
    exact.add(case[1])
    for found, expected in zip(
        gpu.search(*case[:2], 11, "cpu"), exact.search(case[0], 11), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_is_not_here_is_one_line(monkeypatch) -> None:
    case = oracle.random_case(2, 5, 4, 2)
    with pytest.raises(InputError, match="engine is 'scann'"):
        evaluate_codes(*case, 4, engine="scann")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("exact", "faiss"):
        with pytest.raises(InputError, match="torch sees no GPU here: leave it out") as told:
            evaluate_codes(*case, 4, engine=name, device="cuda")
        assert "\n" not in str(told.value)
        with pytest.raises(InputError, match="torch sees no GPU"):
            Evaluation(name, "cuda").check()
    Evaluation("faiss", "cpu").check()


def test_a_faiss_that_was_overwritten_says_how_to_mend_it(monkeypatch) -> None:
    def named(*names):
        found = [SimpleNamespace(metadata={"Name": name}) for name in names]
        monkeypatch.setattr("importlib.metadata.distributions", lambda: found)

    monkeypatch.delattr("faiss.StandardGpuResources", raising=False)
    named("faiss-cpu")
    assert not gpu.faiss_has_gpu()
    named("faiss-cpu", "faiss-gpu-cu12")
    with pytest.raises(InputError, match="uninstall -y faiss-cpu faiss-gpu-cu12"):
        gpu.faiss_has_gpu()
    monkeypatch.setattr("faiss.StandardGpuResources", object, raising=False)
    monkeypatch.setattr("faiss.get_num_gpus", lambda: 2, raising=False)
    assert gpu.faiss_has_gpu()
