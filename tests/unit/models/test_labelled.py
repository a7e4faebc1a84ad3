"""The labels teacher: graded similarity, and the share that is known."""

import numpy as np
import pytest
import torch
from tests.cached import taught

from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSHPlus
from udmsh_pl.models.labelled import UDMSHPlusLabelled, drawn_rows, shared_labels

ROWS, DIM = 40, 512


def taught_by(
    labels: np.ndarray, kind: type[UDMSHPlus] = UDMSHPlusLabelled, **options: float
) -> dict[str, torch.Tensor]:
    """The batch of all images, with the teacher's part."""
    draw = np.random.default_rng(0)
    stored = {
        "global_feature": draw.random((ROWS, DIM)).astype(np.float16),
        "feature_map": draw.random((ROWS, DIM, 2, 2)).astype(np.float16),
    }
    torch.manual_seed(0)
    built = kind(bits=8, backbone="resnet10t", weights="random", hidden=16, **options)
    features = TrainFeatures(stored)
    built.load_teacher(built.fit_teacher(features))
    return taught(built, features, range(ROWS), labels=labels)


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
    found = taught_by(labels, labelled=0.5)["similarity"].numpy()
    known = drawn_rows(ROWS, 0.5)
    assert known.sum() == ROWS // 2
    both = known[:, None] & known
    np.testing.assert_allclose(found[both], (labels @ labels.T)[both], atol=1e-6)
    manifold = taught_by(labels, UDMSHPlus)["similarity"].numpy()
    np.testing.assert_allclose(found[~both], manifold[~both])


def test_all_labels_leave_nothing_to_the_manifold() -> None:
    labels = np.random.default_rng(1).random((ROWS, 6)) < 0.4
    labels[:, 0] = True
    found = taught_by(labels)["similarity"]
    torch.testing.assert_close(found, shared_labels(torch.from_numpy(labels)))


def test_images_whose_labels_differ_are_never_near() -> None:
    labels = np.eye(4, dtype=bool)[np.arange(ROWS) % 4]
    found = taught_by(labels, labelled=0.5)["nearness"]
    known = drawn_rows(ROWS, 0.5)
    differ = known[:, None] & known & ~(labels @ labels.T)
    cosine = taught_by(labels, UDMSHPlus)["nearness"].numpy()
    np.testing.assert_array_equal(found, np.where(differ, -1, cosine))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(InputError, match=r"model\.labelled"):
        taught_by(np.eye(ROWS, dtype=bool), labelled=share)
