"""A hash that is learned from random views of the pictures too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from udmsh_pl.backbones import OFFLINE_BACKBONE
from udmsh_pl.cli import main
from udmsh_pl.features.forward import forward_of
from udmsh_pl.features.store import Arrays
from udmsh_pl.models.fusion import FusedEncoder
from udmsh_pl.search import ImageIndex, train
from udmsh_pl.search.pictures import decode, digest_of

from .conftest import draw


def test_views_are_decided_by_the_picture_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 48), dtype=np.uint8)[:, :, :32]
    state = torch.get_rng_state()
    first, second = (list(train.views_of(pixels, 3, b"12345678")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    other = list(train.views_of(pixels, 3, b"another one"))
    assert [view.shape for view in first] == [(3, 32, 32)] * 3
    assert all(view.dtype == np.uint8 for view in first)
    np.testing.assert_array_equal(first, second)
    assert not any(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_features_of_views_are_told_from_those_of_pictures(count: int) -> None:
    rows = np.arange(4 * (1 + count), dtype=np.float32)
    features = {
        "global_feature": np.tile(rows[:, None], 5),
        "feature_map": np.tile(rows[:, None, None, None], (7, 2, 2)),
    }
    found = train.with_views(features, count)
    clean = np.arange(4) * (1 + count)
    assert found["global_feature"].shape == (4, 5)
    assert found["feature_map"].shape == (4, 7, 2, 2)
    for name in ("global_feature", "feature_map"):
        np.testing.assert_array_equal(found[name].reshape(4, -1)[:, 0], clean)
    if not count:
        assert set(found) == {"global_feature", "feature_map"}
        return
    assert found["views"].shape == (4, count, 5)
    assert found["view_maps"].shape == (4, count, 7, 2, 2)
    for name in ("views", "view_maps"):
        places = found[name].reshape(4, count, -1)[..., 0]
        np.testing.assert_array_equal(places, clean[:, None] + 1 + np.arange(count))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(14):
        draw(tmp_path / f"pictures/{number:02d}.png", number)
    return tmp_path / "pictures"


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Arrays]:
    """What hashes are learned from, 14 pictures being enough for one."""
    monkeypatch.setattr(train, "LEAST", 14)
    monkeypatch.setattr(train, "steps_for", lambda count: 4)
    original: Callable[..., FusedEncoder] = train.fit_udmsh_plus
    seen: list[Arrays] = []

    def recording(arrays: Arrays, bits: int, steps: int) -> FusedEncoder:
        seen.append(arrays)
        return original(arrays, bits, steps)

    monkeypatch.setattr(train, "fit_udmsh_plus", recording)
    return seen


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_an_index_is_learned_from_views(
    pictures: Path, fitted: list[Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    out = pictures.parent / "index"
    assert run("index", pictures, "--out", out, "--bits", 16, "--views", 2) == 0
    assert "learned from 14 of your pictures and 2 views of each" in capsys.readouterr().out
    [arrays] = fitted
    assert arrays["views"].shape == (14, 2, 1280)
    # in the order of the names, what torch says of the views of a picture's own pixels
    path = pictures / "05.png"
    content = path.read_bytes()
    pixels = decode(content, path.name, train.image_size()).pixels
    shown = torch.from_numpy(np.stack(list(train.views_of(pixels, 2, digest_of(content)))))
    forward = forward_of(OFFLINE_BACKBONE, None, "", "torch", train.image_size(), train.GRID)
    for name, value in zip(("views", "view_maps"), forward(shown), strict=True):
        np.testing.assert_allclose(arrays[name][5], value.numpy(), rtol=1e-3, atol=1e-3)
    found = ImageIndex.open(out)
    assert len(found) == 14
    for path in sorted(pictures.glob("*.png")):
        assert found.search(path, k=1)[0].path == path


def test_what_views_cannot_do_is_told(
    pictures: Path, fitted: list[Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    out = pictures.parent / "index"
    assert run("index", pictures, "--out", out, "--views", 5) == 2
    assert "--views is 5: give a number from 0 to 4" in capsys.readouterr().err
    assert not out.exists()
    assert run("index", pictures, "--out", out, "--bits", 16) == 0
    assert "views" not in fitted[0]
    assert run("index", pictures, "--out", out, "--views", 1) == 2
    assert "give --retrain" in capsys.readouterr().err
    model = next(out.glob("encoder-*"))
    assert (
        run("index", pictures, "--out", out.parent / "other", "--model", model, "--views", 1) == 2
    )
    assert "leave it or --model out" in capsys.readouterr().err
    assert run("index", pictures, "--out", out, "--views", 1, "--retrain") == 0
    assert fitted[1]["views"].shape[:2] == (14, 1)
