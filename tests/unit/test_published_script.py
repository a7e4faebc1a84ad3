"""GIST, and the script that puts our numbers beside published ones, on images made here."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from udmsh_pl.errors import InputError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def gist() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / "gist.py"))


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / "published.py"))


def grating(cycles: float, angle: float, side: int = 64) -> np.ndarray[Any, Any]:
    """Stripes across the direction ``angle``, ``cycles`` a pixel: uint8 [1, side, side]."""
    down, across = np.mgrid[:side, :side]
    wave = np.cos(2 * np.pi * cycles * (across * np.cos(angle) + down * np.sin(angle)))
    return np.asarray(128 + 100 * wave, dtype=np.uint8)[None]


def noise(count: int = 3, side: int = 32) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.integers(40, 160, (count, side, side, 3), dtype=np.uint8)


def test_a_descriptor_holds_every_filter_in_every_window(gist: dict[str, Any]) -> None:
    assert gist["gist"](noise()).shape == (3, 512)
    assert gist["gist"](noise(), orientations=(8, 8, 4)).shape == (3, 320)
    assert gist["gist"](noise(side=30), windows=3, size=48).shape == (3, 288)
    assert gist["gist"](noise()).dtype == np.float32


@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize("orientation", range(8))
def test_a_grating_lights_its_scale_and_orientation(
    gist: dict[str, Any], scale: int, orientation: int
) -> None:
    image = grating(0.3 / 1.85**scale, -np.pi * orientation / 8)
    energy = gist["gist"](image).reshape(4, 8, 16).mean(2)
    assert np.unravel_index(energy.argmax(), energy.shape) == (scale, orientation)


def test_brightness_and_contrast_change_nothing(gist: dict[str, Any]) -> None:
    image = noise()
    described = gist["gist"](image)
    np.testing.assert_allclose(gist["gist"](image + np.uint8(50)), described, atol=1e-5)
    grey = image.mean(-1).astype(np.uint8) // 2
    np.testing.assert_allclose(gist["gist"](grey * 2), gist["gist"](grey), atol=1e-5)


def test_a_flat_image_has_no_stripes(gist: dict[str, Any]) -> None:
    assert np.abs(gist["gist"](np.full((1, 32, 32), 7, np.uint8))).max() == 0


def test_windows_are_means_of_the_filtered_image(gist: dict[str, Any]) -> None:
    image = noise()
    flat = gist["normalised_contrast"](image.astype(np.float32).mean(-1))
    padded = np.pad(flat, ((0, 0), (32, 32), (32, 32)), mode="symmetric")
    transfer = gist["gabor_filters"]((8, 8, 8, 8), 96)
    filtered = scipy.fft.ifft2(scipy.fft.fft2(padded)[:, None] * transfer)
    windows = np.abs(filtered)[..., 32:64, 32:64].reshape(3, 32, 4, 8, 4, 8).mean((3, 5))
    np.testing.assert_allclose(gist["gist"](image), windows.reshape(3, -1), atol=1e-5)


def test_batches_do_not_matter(gist: dict[str, Any]) -> None:
    np.testing.assert_allclose(gist["gist"](noise(), batch=2), gist["gist"](noise()), atol=1e-6)


def test_images_are_read_class_by_class_with_the_test_part_first(
    published: dict[str, Any], tmp_path: Path
) -> None:
    for part, grey in (("test", 0), ("train", 100)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for image in range(2):
                colour = grey + 10 * number + image
                Image.new("RGB", (4, 4), (colour,) * 3).save(
                    tmp_path / part / name / f"{image}.png"
                )
    pixels, labels, kind = published["cifar10_pixels"](tmp_path)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 100, 101, 110, 111]
    assert labels.argmax(1).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert kind == "PNG files"


def test_absent_images_end_with_the_address_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["published.py", "--cifar10", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / "published.py"), run_name="__main__")
    assert ended.value.code == 2
    assert (
        "cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a)" in capsys.readouterr().err
    )


def clusters(count: int = 80) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ten clusters that touch: float32 [count, 16], labels bool [count, 10]."""
    generator = np.random.default_rng(1)
    classes = np.arange(count) % 10
    features = 3 * generator.standard_normal((10, 16))[classes]
    features += generator.standard_normal(features.shape)
    return features.astype(np.float32), np.eye(10, dtype=bool)[classes]


def test_clusters_are_found_and_each_draw_is_another(
    published: dict[str, Any],
) -> None:
    features, labels = clusters()
    results = published["gist_results"](features, labels, 2, lengths=(8,), queries=20, train=40)
    assert {(row.method, row.bits, row.seed) for row in results} == {
        (method, 8, seed) for method in ("lsh", "sh", "itq") for seed in (0, 1)
    }
    itq = [row.value for row in results if row.method == "itq"]
    assert min(itq) > 0.6
    assert len({row.value for row in results}) > 3
    again = published["gist_results"](features, labels, 2, lengths=(8,), queries=20, train=40)
    assert again == results


def test_the_report_has_ours_theirs_and_the_difference(published: dict[str, Any]) -> None:
    features, labels = clusters()
    text = published["report"](features, labels, "PNG files", 1, (8, 16), 20, 40)
    itq = next(line for line in text.splitlines() if "| ITQ (3 iterations) | 8 |" in line)
    theirs, ours, difference = itq.split(" | ")[4:7]
    value = float(ours.split(" ± ")[0])
    assert theirs == "0.1457"
    assert float(difference) == pytest.approx(value - 0.1457, abs=2e-4)
    assert "| method | bits | as published | 60 database | our defaults, 60 database |" in text
    with pytest.raises(InputError, match="80 images are too few for 50 queries and 40 train"):
        published["report"](features, labels, "PNG files", 1, (8,), 50, 40)


def test_descriptors_are_kept_and_not_taken_for_others(
    published: dict[str, Any], tmp_path: Path
) -> None:
    cache = tmp_path / "kept" / "gist.npy"
    described = published["described"](noise(), cache)
    np.testing.assert_array_equal(published["described"](noise() * 0, cache), described)
    with pytest.raises(InputError, match="3 descriptors of 2 images"):
        published["described"](noise(2), cache)
