"""Extraction: the backbone's own output, cached under everything that decides it."""

import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from udmsh_pl.backbones.networks import backbone_info, build_backbone
from udmsh_pl.backbones.pixels import PixelFeatures, replicated
from udmsh_pl.errors import InputError
from udmsh_pl.features.batches import decoding_workers
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    generator = np.random.default_rng(0)
    names = [f"{row}.png" for row in range(11)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(
            tmp_path / name
        )
    return ImageList(names=names, labels=np.ones((11, 2), dtype=bool), root=tmp_path)


def extractor(tmp_path: Path, **changes: object) -> FeatureExtractor:
    settings = {
        "backbone": "resnet10t",
        "weights": "random",
        "image_size": 64,
        "runner": "torch",
        "batch_size": 4,
    }
    return FeatureExtractor(cache_dir=tmp_path / "cache", **{**settings, **changes})  # type: ignore[arg-type]


def test_features_are_the_backbones_own(tmp_path: Path, images: ImageList) -> None:
    arrays = extractor(tmp_path).stored(images).arrays
    info = backbone_info("resnet10t", "random")
    transform = eval_transform(64, info.mean, info.std)
    with torch.no_grad():
        feature, feature_map = build_backbone("resnet10t", "random")(
            torch.stack([transform(images.load(row)) for row in range(11)])
        )
    pooled = torch.nn.functional.adaptive_avg_pool2d(feature_map, 2)
    np.testing.assert_allclose(arrays["global_feature"], feature, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(arrays["feature_map"], pooled, rtol=2e-3, atol=1e-3)


@pytest.mark.skipif(
    find_spec("openvino") is None, reason="the extra udmsh-pl[extract] is not installed"
)
def test_openvino_agrees_with_torch(tmp_path: Path, images: ImageList) -> None:
    found = {}
    for runner in ("torch", "openvino"):
        own = extractor(
            tmp_path / runner, backbone="tf_efficientnet_lite0", weights=None, runner=runner
        )
        found[runner] = own.stored(images).arrays
        [meta] = (tmp_path / runner / "cache").glob("*/meta.json")
        assert json.loads(meta.read_text())["runners"] == [runner]
    for name, ours in found["torch"].items():
        # what float16 can tell, and where a ReLU is near zero, the backbone's own rounding
        assert_close_as_stored(found["openvino"][name], ours)
    assert extractor(tmp_path, runner="torch").key(images, 0, 0) == extractor(
        tmp_path, runner="openvino"
    ).key(images, 0, 0)


def assert_close_as_stored(one: np.ndarray, two: np.ndarray) -> None:
    """Equal within two steps of float16, or a thousandth of the features' spread near zero."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    np.testing.assert_allclose(one, two, rtol=2 * 2.0**-10, atol=1e-3 * two.std())


def test_a_store_that_named_its_runner_is_found(tmp_path: Path, images: ImageList) -> None:
    now = extractor(tmp_path)
    key = now.key(images, 0, 0)
    old = now.directory(key | {"runner": "openvino"})  # as 0.1.0 named it
    made = now.stored(images).arrays["global_feature"].copy()
    now.directory(key).rename(old)
    again = now.stored(images)
    assert again.name == old.name
    np.testing.assert_array_equal(again.arrays["global_feature"], made)
    assert not now.directory(key).exists()


def test_replicas_in_half_precision_give_what_one_network_gives() -> None:
    network = PixelFeatures(build_backbone("resnet10t", "random"), 2).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected = network(pixels)
    cpu = torch.device("cpu")
    seen = []
    half = torch.autocast

    def autocast(kind: str, dtype: torch.dtype, enabled: bool) -> object:
        seen.append(enabled)
        return half(kind, dtype, enabled=enabled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.autocast", autocast)
        for devices in ([cpu], [cpu, cpu, cpu]):
            for found, wanted in zip(replicated(network, devices)(pixels), expected, strict=True):
                assert found.dtype == torch.float32
                error = (found - wanted).abs().max() / wanted.std()
                assert 0 < error < 1e-2
        assert seen == [True] * 4
        network.std.mul_(1e-7)  # what is larger than float16 can hold is run again
        [feature, _] = replicated(network, [cpu])(pixels)
        assert seen[4:] == [True, False]
    assert torch.isfinite(feature).all()


@pytest.mark.parametrize(
    ("cores", "asked", "gpus", "expected"),
    [
        (2, 2, 0, 0),
        (4, 2, 0, 0),
        (16, 2, 0, 4),
        (64, 2, 0, 16),
        (16, 2, 1, 15),
        (2, 2, 1, 2),
        (64, 0, 1, 0),
    ],
)
def test_as_many_processes_decode_as_there_are_cores_for(
    cores: int, asked: int, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    assert decoding_workers(asked, gpus) == expected


def test_a_second_call_reads_the_cache(
    tmp_path: Path, images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extractor(tmp_path).stored(images).arrays
    monkeypatch.setattr(
        "udmsh_pl.backbones.pixels.build_backbone", lambda *_: pytest.fail("the backbone ran again")
    )
    second = extractor(tmp_path, batch_size=2).stored(images).arrays
    np.testing.assert_array_equal(first["feature_map"], second["feature_map"])


@pytest.mark.parametrize("change", [{"image_size": 32}, {"grid": 1}, {"backbone": "resnet18"}])
def test_another_setting_is_another_key(
    tmp_path: Path, images: ImageList, change: dict[str, object]
) -> None:
    assert extractor(tmp_path).key(images, 0, 0) != extractor(tmp_path, **change).key(images, 0, 0)


def test_orientation_is_part_of_the_key(tmp_path: Path, images: ImageList) -> None:
    raw = replace(images, upright=False)
    assert extractor(tmp_path).key(images, 0, 0) != extractor(tmp_path).key(raw, 0, 0)


def test_a_changed_image_is_another_key(tmp_path: Path, images: ImageList) -> None:
    before = extractor(tmp_path).key(images, 0, 0)
    path = images.path(3)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)
    os.utime(path, (1, 1))
    assert extractor(tmp_path).key(images, 0, 0) != before
    assert extractor(tmp_path).key(images.select([0, 1, 2]), 0, 0) != extractor(tmp_path).key(
        images.select([2, 1, 0]), 0, 0
    )


def test_views_depend_on_seed_and_row_alone(tmp_path: Path, images: ImageList) -> None:
    one = extractor(tmp_path, batch_size=2).stored(images, 3).arrays["views"]
    assert one.shape == (11, 3, 512)
    other = extractor(tmp_path / "elsewhere", batch_size=64).stored(images, 3).arrays["views"]
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)
    assert np.abs(one[:, 0].astype(float) - one[:, 1]).max() > 1e-2
    reseeded = extractor(tmp_path).stored(images, 3, seed=1).arrays["views"]
    assert np.abs(one.astype(float) - reseeded).max() > 1e-2


def test_extraction_goes_on_where_it_was_stopped(
    tmp_path: Path, images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udmsh_pl.features.extract.BLOCK", 1)
    whole = extractor(tmp_path / "whole").stored(images).arrays
    original, calls = ImageList.load, []

    def failing(self: ImageList, row: int, at_least: int | None = None) -> Image.Image:
        if row == 9:
            raise KeyboardInterrupt
        return original(self, row, at_least)

    monkeypatch.setattr(ImageList, "load", failing)
    with pytest.raises(KeyboardInterrupt):
        extractor(tmp_path).stored(images)

    def counting(self: ImageList, row: int, at_least: int | None = None) -> Image.Image:
        calls.append(row)
        return original(self, row, at_least)

    monkeypatch.setattr(ImageList, "load", counting)
    resumed = extractor(tmp_path).stored(images).arrays
    assert calls == [8, 9, 10]
    np.testing.assert_array_equal(resumed["global_feature"], whole["global_feature"])


def test_a_missing_image_names_the_file(tmp_path: Path, images: ImageList) -> None:
    images.path(4).unlink()
    with pytest.raises(InputError, match=r"4\.png"):
        extractor(tmp_path).stored(images)
