"""All images of a split in one file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.data.fashion_mnist import load_sample
from udmsh_pl.errors import InputError
from udmsh_pl.images.broken import find_broken
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.pack import pack_images, pack_splits
from udmsh_pl.images.protocol import Protocol


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    generator = np.random.default_rng(0)
    names = ["small.jpg", "wide.png", "tall.jpg"]
    for name, (height, width) in zip(names, [(20, 24), (40, 80), (90, 30)], strict=True):
        smooth = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((width, height)).save(tmp_path / name)
    return ImageList(names, np.eye(3, dtype=bool), tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_small_images_are_exact_and_large_ones_resized(
    images: ImageList, tmp_path: Path, workers: int
) -> None:
    packed = pack_images(images, tmp_path / "cache", size=24, workers=workers)
    assert np.array_equal(np.asarray(packed.load(0)), np.asarray(images.load(0)))
    assert np.array_equal(
        packed.load_tensor(0).permute(1, 2, 0).numpy(), np.asarray(images.load(0))
    )
    assert [packed.load(row).size for row in range(3)] == [(24, 20), (48, 24), (24, 72)]
    small = images.load(1).resize((48, 24), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(packed.load(1), dtype=int) - np.asarray(small)).mean() < 4
    assert packed.fingerprint() == images.fingerprint()


def test_png_and_plain_copies_lose_nothing(images: ImageList, tmp_path: Path) -> None:
    small = images.load(2).resize((24, 72), Image.Resampling.BICUBIC)
    packed = pack_images(images, tmp_path / "cache", size=24, image_format="png")
    assert np.array_equal(np.asarray(packed.load(2)), np.asarray(small))
    copied = pack_images(images, tmp_path / "cache", size=None)
    for row in range(3):
        assert np.array_equal(np.asarray(copied.load(row)), np.asarray(images.load(row)))
    assert copied.file != packed.file


def test_selection_and_worker_copies_read_the_same_file(images: ImageList, tmp_path: Path) -> None:
    packed = pack_images(images, tmp_path / "cache")
    chosen = packed.select([2, 0])
    assert list(chosen.names) == ["tall.jpg", "small.jpg"]
    assert chosen.labels.argmax(axis=1).tolist() == [2, 0]
    assert chosen.load(0).size == (30, 90)
    assert len(pickle.dumps(chosen)) < 2_000
    assert pickle.loads(pickle.dumps(chosen)).load(1).size == (24, 20)


def test_the_file_is_used_again_until_an_image_changes(images: ImageList, tmp_path: Path) -> None:
    first = pack_images(images, tmp_path / "cache")
    written = first.file.stat().st_mtime_ns
    assert pack_images(images, tmp_path / "cache").file.stat().st_mtime_ns == written
    Image.new("RGB", (9, 9)).save(tmp_path / "small.jpg")
    changed = pack_images(images, tmp_path / "cache")
    assert changed.file != first.file
    assert changed.load(0).size == (9, 9)


def test_damage_is_noticed(images: ImageList, tmp_path: Path) -> None:
    packed = pack_images(images, tmp_path / "cache")
    data = bytearray(packed.file.read_bytes())
    data[-1] ^= 1
    packed.file.write_bytes(data)
    with pytest.raises(
        InputError, match=r"tall.jpg is damaged in this cache of images; delete the file"
    ):
        packed.load_tensor(2)
    packed.file.write_bytes(data[:-1])  # a cut file is written again
    assert pack_images(images, tmp_path / "cache").load(2).size == (30, 90)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stays_one_and_an_absent_one_leaves_nothing_behind(
    images: ImageList, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "wide.png").write_bytes(b"no image")
    packed = pack_images(images, tmp_path / "cache", workers=workers)
    assert list(find_broken(packed)) == ["wide.png"]
    packed.file.unlink()
    (tmp_path / "wide.png").unlink()
    with pytest.raises(InputError, match=r"wide.png: no such image"):
        pack_images(images, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.pack"))


def test_arguments_out_of_range(images: ImageList, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size 0"):
        pack_images(images, tmp_path, size=0)
    with pytest.raises(InputError, match="quality 99"):
        pack_images(images, tmp_path, quality=99)


def test_splits_share_the_file_of_the_database(images: ImageList, tmp_path: Path) -> None:
    facts = Protocol("toy", "small", None, None, None, 3, None, "", "", "")
    query, database = images.select([0]), images.select([1, 2])
    for train in (database, database.select([1])):
        splits = Splits(facts, query, train, database)
        packed = pack_splits(splits, tmp_path / "cache")
        assert packed.fingerprint() == splits.fingerprint()
        assert packed.train.file == packed.database.file != packed.query.file
        for name, part in packed.by_name().items():
            original = splits.by_name()[name]
            for row in range(len(part)):
                assert np.array_equal(np.asarray(part.load(row)), np.asarray(original.load(row)))
    apart = pack_splits(Splits(facts, None, query, database), tmp_path / "cache")
    assert apart.train.file == packed.query.file
    assert len(list((tmp_path / "cache").glob("*.pack"))) == 2
    sample = load_sample()
    assert pack_splits(sample, tmp_path / "none") is sample
