"""The fused feature against scikit-learn, and its encoder."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from udmsh_pl.errors import InputError
from udmsh_pl.features.fused import FusedFeature, parts_of
from udmsh_pl.models.heads import FusedEncoder


@pytest.fixture
def parts() -> torch.Tensor:
    return torch.rand(200, 14, generator=torch.Generator().manual_seed(0)) ** 3 * torch.linspace(
        1, 5, 14
    )


def fused_by_hand(values: np.ndarray) -> np.ndarray:
    root = np.sqrt(values)
    root -= root.mean(0)
    unit = [
        part / np.linalg.norm(part, axis=1, keepdims=True) for part in (root[:, :6], root[:, 6:])
    ]
    both = np.concatenate(unit, axis=1)
    return both / np.linalg.norm(both, axis=1, keepdims=True)


def test_axes_are_the_principal_ones(parts: torch.Tensor) -> None:
    fusion = FusedFeature((6, 8), dims=5)
    fusion.fit(parts.clone())
    ours = fusion(parts).numpy()
    theirs = PCA(5).fit_transform(fused_by_hand(parts.double().numpy()))
    theirs /= theirs.std()
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-2)
    assert ours.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(np.corrcoef(ours.T), np.eye(5), atol=1e-2)


def test_views_say_which_directions_count() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(400, 1, 6)) * [3, 2, 1, 1, 1, 1]
    views = images + draw.normal(size=(400, 4, 6)) * [3, 1, 1, 1, 0.5, 0.1]
    shown = torch.from_numpy(np.concatenate([images, views], axis=1)).half()
    fusion = FusedFeature((6,), 6)
    fusion.axes.copy_(torch.eye(6))
    fused = shown.clone()
    fusion.discount_views(fused, 1.0)
    told = fused.double()
    # as Fisher's discriminants: within an image all directions vary about alike, but for what is
    # added to the least of them, and those that tell images apart best come first
    apart = (told - told.mean(1, keepdim=True)).flatten(0, 1)
    spread = np.linalg.eigvalsh((apart.T @ apart).numpy())
    before = (shown - shown.mean(1, keepdim=True)).double().flatten(0, 1)
    known = np.linalg.eigvalsh((before.T @ before).numpy())
    known = known / (known / known.mean() + 0.3)
    np.testing.assert_allclose(
        spread / spread.sum(), np.sort(known) / known.sum(), rtol=0.02, atol=1e-3
    )
    variance = told[:, 0].var(0)
    assert (variance.diff() < 0).all()
    assert fusion.axes[:, 0].abs().argmax() != 0  # the largest direction was the views' own
    np.testing.assert_allclose(shown[:, 0].float() @ fusion.axes, told[:, 0], atol=1e-2)
    assert float(told[:, 0].std()) == pytest.approx(1, abs=1e-2)
    unmoved = FusedFeature((6,), 6)
    unmoved.axes.copy_(torch.eye(6))
    fused = shown.clone()
    unmoved.discount_views(fused, 0.0)
    gram = fused[:, 0].double()
    scale = images[:, 0].std()
    np.testing.assert_allclose(gram @ gram.T * scale**2, images[:, 0] @ images[:, 0].T, atol=0.3)


def test_fitting_twice_gives_the_same_and_leaves_the_random_state_alone(
    parts: torch.Tensor,
) -> None:
    one, two = FusedFeature((6, 8), 5), FusedFeature((6, 8), 5)
    torch.manual_seed(1)
    one.fit(parts.clone())
    drawn = torch.rand(1)
    torch.manual_seed(2)
    two.fit(parts.clone())
    torch.testing.assert_close(one.axes, two.axes, rtol=0, atol=0)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_axes_beyond_the_rank_are_zero(parts: torch.Tensor) -> None:
    fusion = FusedFeature((6, 8), dims=32)
    fusion.fit(parts[:10].clone())
    out = fusion(parts)
    assert out.shape == (200, 32)
    assert (out[:, 10:] == 0).all()
    assert out[:, :9].abs().min(0).values.max() > 0


def test_features_of_both_signs_are_allowed() -> None:
    fusion = FusedFeature((6,), dims=3)
    fusion.fit(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(fusion(torch.randn(5, 6))).all()


def test_encoder_with_and_without_a_map() -> None:
    feature, feature_map = torch.rand(40, 6), torch.rand(40, 2, 2, 2)
    encoder = FusedEncoder(6, 8, bits=12, hidden=16, dims=5, dropout=0.5)
    encoder.fusion.fit(encoder.parts(feature, feature_map))
    assert encoder.logits(feature, feature_map).shape == (40, 12)
    with pytest.raises(InputError, match="branches global"):
        encoder.logits(feature)
    assert FusedEncoder(6, 0, 12, 16, 5, 0.5).logits(feature).shape == (40, 12)
    with pytest.raises(InputError, match="2000 bits"):
        FusedEncoder(6, 8, 2000, 16, 5, 0.5)


def test_a_checkpoint_holds_what_was_fitted(parts: torch.Tensor) -> None:
    fusion, other = FusedFeature((6, 8), 5), FusedFeature((6, 8), 5)
    fusion.fit(parts.clone())
    other.load_state_dict(fusion.state_dict())
    torch.testing.assert_close(other(parts), fusion(parts), rtol=0, atol=0)


@pytest.mark.parametrize("with_map", [True, False])
def test_parts_of_rows(with_map: bool) -> None:
    draw = np.random.default_rng(0)
    feature = draw.random((300, 6)).astype(np.float16)
    feature_map = draw.random((300, 2, 2, 2)).astype(np.float16) if with_map else None
    rows = draw.permutation(300)[:257]  # two blocks, and one row
    every = feature if feature_map is None else np.hstack([feature, feature_map.reshape(300, 8)])
    found = parts_of(feature, feature_map, rows)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), every[rows].astype(np.float32))
