"""The semantic structure against scipy's dense distances and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import halfnorm

from udmsh_pl.similarity.structure import (
    BINS,
    SemanticStructure,
    distance_histogram,
    fit_half_gaussians,
    half_gaussians_of_histogram,
)


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_streamed_fit_equals_the_dense_one_for_any_block(block: int) -> None:
    features = torch.randn(203, 16, generator=torch.Generator().manual_seed(1))
    dense = pdist(features.numpy(), "cosine")
    counts, _ = np.histogram(dense, bins=BINS, range=(0, 2))
    streamed = distance_histogram(features, block=block)
    assert int(streamed.sum()) == 203 * 202 // 2
    assert (
        np.abs(np.cumsum(streamed.numpy() - counts)).max() <= 3
    )  # float32 may push a pair over a bin's edge
    fitted = fit_half_gaussians(features, block=block)
    left, right = dense[dense <= fitted.mode], dense[dense > fitted.mode]
    assert fitted.sigma_left == pytest.approx(np.sqrt(np.mean((left - fitted.mode) ** 2)), abs=1e-4)
    assert fitted.sigma_right == pytest.approx(
        np.sqrt(np.mean((right - fitted.mode) ** 2)), abs=1e-4
    )
    bars, _ = np.histogram(dense, bins=200, range=(0, 2))
    assert fitted.mode == pytest.approx((bars.argmax() + 0.5) / 100, abs=0.011)


def test_a_sample_of_rows_estimates_the_same_structure() -> None:
    features = torch.randn(3000, 8, generator=torch.Generator().manual_seed(2)) + 0.3
    every, some = fit_half_gaussians(features), fit_half_gaussians(features, sample=600)
    assert some.sigma_left == pytest.approx(every.sigma_left, rel=0.1)
    assert some.sigma_right == pytest.approx(every.sigma_right, rel=0.1)


def test_one_image_has_no_structure() -> None:
    with pytest.raises(ValueError, match="at least two"):
        fit_half_gaussians(torch.ones(1, 4))


def test_equal_images_give_finite_thresholds() -> None:
    fitted = fit_half_gaussians(torch.ones(5, 4))
    assert np.isfinite([fitted.mode, fitted.sigma_left, fitted.sigma_right]).all()
    assert min(fitted.sigma_left, fitted.sigma_right) > 0


def fitted_structure(**options: object) -> SemanticStructure:
    structure = SemanticStructure([4], **options)  # type: ignore[arg-type]
    structure.thresholds.copy_(torch.tensor([0.9, 0.1, 0.2], dtype=torch.float64))
    return structure


@given(
    st.lists(st.floats(0, 2, width=32), min_size=2, max_size=30),
    st.floats(0.5, 3),
    st.floats(0.5, 3),
)
@settings(max_examples=60, deadline=None)
def test_order_in_distance_is_order_in_similarity(
    values: list[float], alpha: float, beta: float
) -> None:
    for levels in ("graded", "hard", "cosine"):
        structure = fitted_structure(alpha=alpha, beta=beta, levels=levels)
        distances = torch.tensor(sorted(values))
        similarity = structure.similarity(distances)
        assert (similarity.diff() <= 1e-6).all()
        if levels != "cosine":
            assert (similarity[distances <= structure.similar_below - 1e-5] == 1).all()
            assert (similarity[distances >= structure.dissimilar_above + 1e-5] == -1).all()


def test_thresholds_use_alpha_left_and_beta_right() -> None:
    structure = fitted_structure(alpha=1.0, beta=3.0)
    assert structure.similar_below == pytest.approx(0.8)
    assert structure.dissimilar_above == pytest.approx(1.5)


def test_confidence_is_cimons_half_gaussian_mass() -> None:
    structure = fitted_structure(confidence=True)
    distances = torch.tensor([0.9, 0.85, 0.7, 1.0, 1.5])
    expected = [0.0, *halfnorm.cdf([0.05, 0.2], scale=0.1), *halfnorm.cdf([0.1, 0.6], scale=0.2)]
    assert structure.weight(distances).tolist() == pytest.approx(expected, abs=1e-5)


def test_two_teachers_average_their_centred_cosine_distances() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (
        torch.randn(40, 5, generator=generator),
        torch.randn(40, 9, generator=generator) * 7 + 1,
    )
    structure = SemanticStructure([5, 9])
    structure.fit(torch.cat([first, second], dim=1))
    expected = sum(
        1
        - torch.nn.functional.cosine_similarity(
            (x - x.mean(0))[:, None], (x - x.mean(0))[None], dim=2
        )
        for x in (first, second)
    )
    torch.testing.assert_close(
        structure.distances(torch.cat([first, second], dim=1)), expected / 2, atol=1e-5, rtol=0
    )


def test_state_dict_holds_everything_fitted() -> None:
    structure = SemanticStructure([6])
    features = torch.randn(50, 6)
    structure.fit(features)
    copy = SemanticStructure([6])
    copy.load_state_dict(structure.state_dict())
    assert copy.half_gaussians == structure.half_gaussians
    assert torch.equal(
        copy.similarity(copy.distances(features)),
        structure.similarity(structure.distances(features)),
    )


def test_mode_of_a_known_histogram() -> None:
    counts = torch.zeros(BINS, dtype=torch.int64)
    counts[8_000:8_100] = 10  # the bar [0.80, 0.81]
    counts[2_000] = 1
    fitted = half_gaussians_of_histogram(counts)
    assert fitted.mode == pytest.approx(0.805)


def test_linear_levels_have_no_plateau_and_are_0_at_right_angles() -> None:
    structure = SemanticStructure([16], levels="linear")
    structure.fit(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)))
    levels = structure.similarity(torch.tensor([0.0, 0.01, 0.02, 1.0, 2.0]))
    torch.testing.assert_close(levels, torch.tensor([1.0, 0.99, 0.98, 0.0, -1.0]))
