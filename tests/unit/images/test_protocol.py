"""Seeded draws."""

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.images.protocol import draw, draw_per_label


def test_draw_is_disjoint_complete_and_repeatable() -> None:
    rows = np.arange(100, 200)
    parts = draw(rows, {"query": 10, "train": 30}, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {
        "query": 10,
        "train": 30,
        "rest": 60,
    }
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), rows)
    assert all((np.diff(part) > 0).all() for part in parts.values())
    again = draw(rows, {"query": 10, "train": 30}, seed=3)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert not np.array_equal(
        parts["query"], draw(rows, {"query": 10, "train": 30}, seed=4)["query"]
    )


def test_draw_is_the_same_on_every_machine() -> None:
    assert draw(np.arange(20), {"query": 4}, seed=0)["query"].tolist() == [2, 3, 11, 13]


def test_draw_per_label_gives_each_label_its_images() -> None:
    labels = np.random.default_rng(0).random((400, 5)) < [0.9, 0.5, 0.2, 0.1, 0.08]
    parts = draw_per_label(labels, {"query": 5, "train": 10}, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {
        "query": 25,
        "train": 50,
        "rest": 325,
    }
    assert (labels[parts["query"]].sum(axis=0) >= 5).all()
    assert (labels[parts["train"]].sum(axis=0) >= 10).all()
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(400))


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="draws 3 query, 3 train images, but only 5 are there"):
        draw(np.arange(5), {"query": 3, "train": 3}, seed=0)
    with pytest.raises(
        InputError,
        match="draws 3 query images for each label, but only 2 images of label 1 are left",
    ):
        draw_per_label(np.array([[1, 0]] * 9 + [[0, 1]] * 2, dtype=bool), {"query": 3}, seed=0)
