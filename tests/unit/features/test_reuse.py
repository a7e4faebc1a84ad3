"""Features belong to contents: what was extracted once is never extracted again, whatever it is
called, and nothing else passes for it.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.features import content
from udmsh_pl.features.batches import RowPixels
from udmsh_pl.features.content import contents_of
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.features.shards import Shard
from udmsh_pl.images.image_list import ImageList

ROWS = 7


def list_of(root: Path, names: list[str]) -> ImageList:
    return ImageList(names, np.ones((len(names), 2), dtype=bool), root)


def save(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "BMP")  # of equal size, whatever it shows


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    names = [f"{row}.bmp" for row in range(ROWS)]
    for row, name in enumerate(names):
        save(tmp_path / name, row)
    return list_of(tmp_path, names)


def extractor(folder: Path) -> FeatureExtractor:
    return FeatureExtractor(
        folder / "cache", "resnet10t", "random", image_size=32, runner="torch", batch_size=4
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that were decoded for a backbone."""
    seen: list[str] = []
    original = RowPixels.__getitem__

    def noted(self: RowPixels, item: int):
        seen.append(self.images.names[self.rows[item]])
        return original(self, item)

    monkeypatch.setattr(RowPixels, "__getitem__", noted)
    return seen


@pytest.mark.parametrize("views", [0, 2])
def test_a_folder_that_grows_costs_what_grew(
    tmp_path: Path, images: ImageList, decoded: list[str], views: int
) -> None:
    own = extractor(tmp_path)
    before = {name: array.copy() for name, array in own.stored(images, views).arrays.items()}
    decoded.clear()
    save(tmp_path / "00.bmp", 100)  # first in the list: every row moves
    (tmp_path / "3.bmp").rename(tmp_path / "renamed.bmp")
    os.utime(tmp_path / "5.bmp", (1, 1))  # touched
    (tmp_path / "6.bmp").unlink()
    names = ["00.bmp", "0.bmp", "1.bmp", "2.bmp", "renamed.bmp", "4.bmp", "5.bmp"]
    grown = own.stored(list_of(tmp_path, names), views).arrays
    assert decoded == ["00.bmp"]
    alone = extractor(tmp_path / "alone").stored(list_of(tmp_path, names), views).arrays
    for name, array in before.items():
        np.testing.assert_array_equal(grown[name][1:], array[:6])
        np.testing.assert_allclose(grown[name], alone[name], rtol=2e-3, atol=2e-3)
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(folders) == 2  # the one new row has no store of its own any more


def test_a_picture_that_is_only_touched_or_moved_costs_nothing(
    tmp_path: Path, images: ImageList, decoded: list[str]
) -> None:
    first = extractor(tmp_path).stored(images)
    decoded.clear()
    for name in images.names:
        os.utime(tmp_path / name, (5, 5))
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("cache"))
    assert extractor(tmp_path).stored(images).name == first.name
    moved = extractor(tmp_path).stored(replace(images, root=tmp_path / "moved"))
    assert (moved.name, decoded) == (first.name, [])


def test_swapped_and_replaced_pictures_of_equal_size_and_time_are_others(
    tmp_path: Path, images: ImageList
) -> None:
    own = extractor(tmp_path)
    before = own.stored(images).arrays["global_feature"].copy()
    facts = [(tmp_path / name).stat() for name in images.names]
    (tmp_path / "1.bmp").rename(tmp_path / "aside")
    (tmp_path / "2.bmp").rename(tmp_path / "1.bmp")
    (tmp_path / "aside").rename(tmp_path / "2.bmp")
    save(tmp_path / "4.bmp", 104)
    for name, fact in zip(images.names, facts, strict=True):
        os.utime(tmp_path / name, ns=(fact.st_atime_ns, fact.st_mtime_ns))
        assert (tmp_path / name).stat().st_size == fact.st_size
    after = own.stored(images).arrays["global_feature"]
    np.testing.assert_array_equal(after[[1, 2]], before[[2, 1]])
    assert np.abs(after[4].astype(float) - before[4]).max() > 1e-2
    np.testing.assert_array_equal(after[[0, 3, 5, 6]], before[[0, 3, 5, 6]])


def test_broken_pictures_have_no_row_and_a_reason(
    tmp_path: Path, images: ImageList, decoded: list[str]
) -> None:
    whole = extractor(tmp_path / "whole").stored(images.select([0, 2, 3, 5, 6])).arrays
    for name in ("1.bmp", "4.bmp"):
        (tmp_path / name).write_bytes(b"BM no picture" + name.encode())
    for _ in range(2):
        found = extractor(tmp_path).stored(images)
        assert set(found.broken) == {"1.bmp", "4.bmp"}
        for name, array in found.arrays.items():
            np.testing.assert_allclose(array, whole[name], rtol=2e-3, atol=2e-3)
    decoded.clear()
    longer = list_of(tmp_path, ["4.bmp", "6.bmp", "0.bmp"])  # in another list they stay broken
    again = extractor(tmp_path).stored(longer)
    assert (list(again.broken), len(again.arrays["global_feature"]), decoded) == (["4.bmp"], 2, [])
    save(tmp_path / "4.bmp", 4)  # mended
    assert extractor(tmp_path).stored(longer).broken == {}
    assert decoded == ["4.bmp"]


@pytest.mark.parametrize("row", [0, 3, 6])
def test_shards_leave_out_what_one_process_leaves_out(
    tmp_path: Path, images: ImageList, row: int
) -> None:
    (tmp_path / images.names[row]).write_bytes(b"broken")
    one, many = extractor(tmp_path / "one"), extractor(tmp_path / "many")
    expected = one.stored(images)
    assert [many.make_shard(images, Shard(number, 2)) for number in (1, 0)] == [False, True]
    found = many.stored(images)
    assert (found.name, found.broken) == (expected.name, expected.broken)
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, expected.arrays[name])


def test_only_pictures_none_of_which_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    found = extractor(tmp_path).stored(list_of(tmp_path, ["a.jpg"]))
    assert list(found.broken) == ["a.jpg"]
    assert found.arrays["global_feature"].shape == (0, 512)


def test_contents_are_read_once_and_damage_to_the_memory_costs_reading(
    tmp_path: Path, images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = ImageList.content
    monkeypatch.setattr(
        ImageList, "content", lambda self, row: read.append(row) or original(self, row)
    )
    first = contents_of(images, tmp_path / "cache")
    assert contents_of(images, tmp_path / "cache") == first
    assert sorted(read) == list(range(ROWS))
    [memory] = (tmp_path / "cache").glob("contents-*.npz")
    whole = memory.read_bytes()
    for damaged in (b"", whole[:-30], whole.replace(b"contents", b"contentz"), b"PK" + whole[9:]):
        memory.write_bytes(damaged)
        read.clear()
        assert contents_of(images, tmp_path / "cache") == first
        assert len(read) == ROWS
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    memory.write_bytes(flipped)
    assert contents_of(images, tmp_path / "cache") == first
    monkeypatch.setattr(content, "save_arrays", lambda *_: (_ for _ in ()).throw(InputError("ro")))
    memory.unlink()
    assert contents_of(images, tmp_path / "cache") == first  # a cache that cannot be written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_features_that_a_store_cannot_hold_are_refused(
    tmp_path: Path, images: ImageList, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def wrong(pixels):
        import torch

        feature = torch.zeros(len(pixels), 512)
        feature[1, 3] = value
        return feature, torch.zeros(len(pixels), 512, 2, 2)

    monkeypatch.setattr("udmsh_pl.features.extract.forward_of", lambda *_: wrong)
    with pytest.raises(InputError, match=r"1\.bmp: the backbone's global_feature is .*65504"):
        extractor(tmp_path).stored(images)
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_a_store_that_cannot_be_understood_is_passed_over(
    tmp_path: Path, images: ImageList, decoded: list[str]
) -> None:
    own = extractor(tmp_path)
    own.stored(images.select([0, 1]))
    [meta] = (tmp_path / "cache").glob("*/meta.json")
    for text in ("", "[]", '{"key": 1}', json.dumps({"key": own.key(images, 0, 0)})):
        meta.write_text(text)
        assert len(own.stored(images).arrays["global_feature"]) == ROWS
    assert len(decoded) == 2 + ROWS
