"""The map keeps like beside like, whatever the number of pictures; and the thread that makes it."""

import threading
import time

import numpy as np
import pytest

from udmsh_pl.serve.jobs import WAITING, Full, Jobs
from udmsh_pl.serve.map import positions


def clusters(count: int, of: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % of
    centres = generator.normal(0, 60, (of, 32))
    features = centres[labels] + generator.normal(0, 12, (count, 32))
    return features.round().clip(-127, 127).astype(np.int8), labels


def purity(places: np.ndarray, labels: np.ndarray) -> float:
    """How often the nearest on the plane is of the same cluster."""
    far = ((places[:, None] - places) ** 2).sum(2)
    np.fill_diagonal(far, np.inf)
    return float((labels[far.argmin(1)] == labels).mean())


def test_like_lies_beside_like() -> None:
    features, labels = clusters(200)
    places = positions(features)
    assert purity(places, labels) > 0.98
    assert places.min() >= 0
    assert places.max() <= 1
    assert np.ptp(places, axis=0).max() > 0.9  # the square is used
    np.testing.assert_array_equal(places, positions(features))


def test_pictures_beyond_the_landmarks_are_put_between_them() -> None:
    features, labels = clusters(700)
    assert purity(positions(features, most=100), labels) > 0.95


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_few_pictures(count: int) -> None:
    places = positions(clusters(count)[0])
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


@pytest.mark.parametrize("value", [0, 5])
def test_equal_pictures(value: int) -> None:
    places = positions(np.full((40, 16), value, np.int8))
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == 40


def test_a_result_is_computed_once_for_all_who_ask() -> None:
    jobs, calls, found = Jobs(), [], []

    def work() -> str:
        calls.append(1)
        time.sleep(0.05)
        return "done"

    threads = [
        threading.Thread(target=lambda: found.append(jobs.result("key", work, 5))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, found) == ([1], ["done"] * 8)


def test_a_failure_is_told_and_tried_again() -> None:
    jobs = Jobs()
    with pytest.raises(ZeroDivisionError):
        jobs.result("key", lambda: 1 // 0, 5)
    assert jobs.result("key", lambda: 5, 5) == 5


def test_a_full_queue_is_told() -> None:
    jobs, go = Jobs(), threading.Event()
    assert jobs.result(0, go.wait) is None
    time.sleep(0.05)
    for key in range(1, WAITING + 1):
        assert jobs.result(key, go.wait) is None
    with pytest.raises(Full):
        jobs.result("one more", go.wait)
    go.set()
    assert jobs.result(WAITING, go.wait, 5)
