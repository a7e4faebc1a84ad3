"""Measures say what the report says, under the names that files and loggers use."""

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes
from udmsh_pl.retrieval import measures as m


@pytest.fixture(scope="module")
def report() -> RetrievalReport:
    generator = np.random.default_rng(1)
    codes = [generator.integers(0, 256, (n, 1), dtype=np.uint8) for n in (6, 50)]
    labels = [generator.integers(0, 2, (n, 4)).astype(bool) for n in (6, 50)]
    return evaluate_codes(*codes, *labels, 8, ks=(1, 10, None))


def test_keys_and_bounds(report: RetrievalReport) -> None:
    expected = m.mean_average_precision(report)
    assert [one.key for one in expected] == ["map@1", "map@10", "map@all"]
    by_row = m.mean_average_precision_by_row(report)
    assert [one.key for one in by_row] == ["map_id@1", "map_id@10", "map_id@all"]
    for one, other in zip(expected, by_row, strict=True):
        assert one.value == report.map[one.k]
        assert other.value == report.map_id[one.k]
        assert one.lower <= min(one.value, other.value) + 1e-12
        assert max(one.value, other.value) <= one.upper + 1e-12


def test_graded_and_cut_measures(report: RetrievalReport) -> None:
    assert {one.k: one.value for one in m.ndcg(report)} == report.graded.ndcg
    assert [one.cutoff for one in m.precision(report)] == ["1", "10"]
    assert m.recall(report)[1].value == report.recall_at(10)


def test_a_measure_is_found_by_name() -> None:
    assert m.named_measure("ndcg") is m.ndcg
    assert m.named_measure("udmsh_pl.retrieval.measures.recall") is m.recall
    for name, problem in (("mrr", "is not known; there are"), ("no_such.module", "No module")):
        with pytest.raises(InputError, match=problem):
            m.named_measure(name)


def test_the_graded_first_page_is_told_where_items_have_several_labels() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (150, 2), dtype=np.uint8)
    several, one = generator.random((150, 4)) < 0.5, np.eye(4, dtype=bool)[np.arange(150) % 4]

    def told(labels: np.ndarray, ks: list[int | None]) -> list[m.Measure]:
        pair = codes[:20], codes[20:], labels[:20], labels[20:]
        return m.graded_first_page(evaluate_codes(*pair, bits=16, ks=ks))

    [found] = told(several, [1, 100, None])
    assert (found.name, found.k) == ("ndcg", 100)
    whole = evaluate_codes(codes[:20], codes[20:], several[:20], several[20:], bits=16, ks=[100])
    assert found.value == whole.graded.ndcg[100]
    assert told(several, [1, None]) == told(one, [1, 100, None]) == []
