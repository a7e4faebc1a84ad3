"""The labels teacher: graded similarity, and the share that is known."""

import numpy as np
import pytest
import torch

from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.labelled import UDMSHPlusLabelled, drawn_rows, shared_labels

ROWS, DIM = 40, 512


def model(labels: np.ndarray, **options: float) -> UDMSHPlusLabelled:
    draw = np.random.default_rng(0)
    stored = {
        "global_feature": draw.random((ROWS, DIM)).astype(np.float16),
        "feature_map": draw.random((ROWS, DIM, 2, 2)).astype(np.float16),
    }
    torch.manual_seed(0)
    built = UDMSHPlusLabelled(bits=8, backbone="resnet10t", weights="random", hidden=16, **options)
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))
    built.know(labels)
    return built


def test_similarity_is_the_cosine_of_label_sets() -> None:
    labels = np.random.default_rng(0).random((6, 5)) < 0.5
    labels[2] = False
    found = shared_labels(torch.from_numpy(labels))
    for i in range(6):
        for j in range(6):
            one, other = set(np.flatnonzero(labels[i])), set(np.flatnonzero(labels[j]))
            size = (len(one) * len(other)) ** 0.5
            assert float(found[i, j]) == pytest.approx(len(one & other) / size if size else 0)


def test_pairs_with_an_unknown_image_keep_the_manifolds_similarity() -> None:
    labels = np.eye(4, dtype=bool)[np.arange(ROWS) % 4]
    built = model(labels, labelled=0.5)
    known = drawn_rows(ROWS, 0.5)
    assert known.sum() == ROWS // 2
    rows = torch.arange(ROWS)
    both = known[:, None] & known
    found = built.similarity(rows).numpy()
    np.testing.assert_allclose(found[both], (labels @ labels.T)[both], atol=1e-6)
    manifold = super(UDMSHPlusLabelled, built).similarity(rows).numpy()
    np.testing.assert_allclose(found[~both], manifold[~both])


def test_all_labels_leave_nothing_to_the_manifold() -> None:
    labels = np.random.default_rng(1).random((ROWS, 6)) < 0.4
    labels[:, 0] = True
    found = model(labels).similarity(torch.arange(ROWS))
    torch.testing.assert_close(found, shared_labels(torch.from_numpy(labels)))


def test_images_whose_labels_differ_are_never_near() -> None:
    labels = np.eye(4, dtype=bool)[np.arange(ROWS) % 4]
    built, rows = model(labels, labelled=0.5), torch.arange(ROWS)
    known = drawn_rows(ROWS, 0.5)
    differ = known[:, None] & known & ~(labels @ labels.T)
    cosine = super(UDMSHPlusLabelled, built).nearness(rows).numpy()
    np.testing.assert_array_equal(built.nearness(rows), np.where(differ, -1, cosine))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(InputError, match=r"model\.labelled"):
        model(np.eye(ROWS, dtype=bool), labelled=share)
