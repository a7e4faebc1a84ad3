"""Product quantisers: what is kept and how it is ranked, against NumPy and FAISS's own search."""

from typing import Any

import faiss
import numpy as np
import pytest

from udmsh_pl.baselines.references import quantiser_map, reconstructions
from udmsh_pl.errors import InputError

BITS = 16


@pytest.fixture(scope="module")
def rows() -> Any:
    draw = np.random.default_rng(0)
    return draw.standard_normal((300, 6)) @ draw.standard_normal((6, 10))


def test_each_part_is_the_nearest_of_its_centroids(rows: Any) -> None:
    kept = reconstructions("pq", BITS, rows, rows)
    assert kept.shape == rows.shape
    halves = [kept[:, :5], kept[:, 5:]]
    for half, own in zip(halves, (rows[:, :5], rows[:, 5:]), strict=True):
        centroids = np.unique(half, axis=0)
        assert len(centroids) <= 256
        distances = np.square(own[:, None] - centroids[None]).sum(2)
        np.testing.assert_allclose(np.square(own - half).sum(1), distances.min(1), atol=1e-4)


@pytest.mark.parametrize("bits", [16, 24])  # 24 bits: three parts, which do not divide ten numbers
def test_opq_keeps_no_less_than_pq(rows: Any, bits: int) -> None:
    train = np.ascontiguousarray(np.tile(rows, (4, 1)) + 0.1, dtype=np.float32)
    errors = {
        kind: float(np.square(reconstructions(kind, bits, train, train) - train).mean())
        for kind in ("pq", "opq")
    }
    assert errors["opq"] < 1.05 * errors["pq"]
    assert errors["pq"] < float(train.var())


def test_the_ranking_is_that_of_faiss(rows: Any) -> None:
    draw = np.random.default_rng(1)
    labels = draw.random((300, 3)) < 0.4
    query, database = rows[:40] + 0.1, rows
    unit = [(one - rows.mean(0)) for one in (rows, query, database)]
    unit = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in unit]
    index = faiss.IndexPQ(10, 2, 8)
    index.train(unit[0])
    index.add(unit[2])
    order = index.search(unit[1], 300)[1]
    relevant = (labels[:40].astype(int) @ labels.T.astype(int)) > 0
    expected = []
    for row, ranked in enumerate(order):
        hits = relevant[row][ranked]
        precision = hits.cumsum() / np.arange(1, 301)
        expected.append((precision * hits).sum() / max(hits.sum(), 1))
    found = quantiser_map("pq", BITS, (rows, query, database), (labels[:40], labels), [None])
    # equal codes are ordered otherwise
    assert found[None] == pytest.approx(np.mean(expected), abs=2e-3)


def test_numbers_that_do_not_fit(rows: Any) -> None:
    with pytest.raises(InputError, match=r"reproduce\.bits"):
        reconstructions("pq", 12, rows, rows)
    with pytest.raises(InputError, match=r"reproduce\.quantisers"):
        reconstructions("pq", BITS, rows[:200], rows)


@pytest.mark.parametrize("kind", ["pq", "opq"])
def test_few_train_rows_are_no_reason_to_print(
    kind: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    reconstructions(kind, 16, rows, rows[:5])
    assert capfd.readouterr() == ("", "")
