"""Parts of an extraction, made in any order and killed anywhere, meet in the store of one run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.features import shards, store
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.features.shards import Shard
from udmsh_pl.images.image_list import ImageList

ROWS = 11


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    generator = np.random.default_rng(0)
    names = [f"{row}.png" for row in range(ROWS)]
    for name in names:
        pixels = generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return ImageList(names=names, labels=np.ones((ROWS, 2), dtype=bool), root=tmp_path)


def extractor(folder: Path) -> FeatureExtractor:
    return FeatureExtractor(
        folder, "resnet10t", "random", image_size=64, runner="torch", batch_size=4
    )


def sums(cache: Path) -> dict[str, str]:
    """SHA-256 of each array of the one store in a cache."""
    [meta] = cache.glob("*/meta.json")
    arrays = json.loads(meta.read_text())["arrays"]
    return {name: facts["sha256"] for name, facts in arrays.items()}


@pytest.mark.parametrize("of", [1, 2, 3, 5])
@pytest.mark.parametrize("views", [0, 3])
def test_shards_give_the_store_of_one_process(
    tmp_path: Path, images: ImageList, of: int, views: int
) -> None:
    extractor(tmp_path / "one").stored(images, views)
    many = extractor(tmp_path / "many")
    order = [Shard(number, of) for number in reversed(range(of))]
    done = [many.make_shard(images, shard, views) for shard in order]
    assert done[-1]
    if 1 < of <= 3:
        assert not done[0]
    assert sums(tmp_path / "many") == sums(tmp_path / "one")
    assert not [path for path in (tmp_path / "many").iterdir() if "shard" in path.name]
    assert all(many.make_shard(images, shard, views) for shard in order)  # nothing is left to do
    name = many.stored(images, views).name
    assert name == extractor(tmp_path / "one").stored(images, views).name


@pytest.mark.parametrize("count", [0, 1, 4, 11, 12, 100])
@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_every_row_is_in_one_shard(count: int, of: int) -> None:
    found = [Shard(number, of).rows(count, 4) for number in range(of)]
    assert [row for rows in found for row in rows] == list(range(count))
    assert all(rows.start % 4 == 0 for rows in found if len(rows))


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


@pytest.mark.parametrize("at", range(7))
def test_a_joining_that_is_killed_anywhere_goes_on(
    tmp_path: Path, images: ImageList, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of the steps that change a file: blocks, checksums, renaming, removal."""
    extractor(tmp_path / "one").stored(images)
    many = extractor(tmp_path / "many")
    assert not many.make_shard(images, Shard(0, 2))
    monkeypatch.setattr(store, "COPIED_AT_ONCE", 4)
    steps = 0

    def dangerous(original):
        def step(*arguments):
            nonlocal steps
            steps += 1
            if steps == at + 1:
                raise Killed
            return original(*arguments)

        return step

    with monkeypatch.context() as patch:
        # one block and the end of the second shard, then three blocks, the end and the removal
        patch.setattr(store.FeatureWriter, "append", dangerous(store.FeatureWriter.append))
        patch.setattr(store.FeatureWriter, "finish", dangerous(store.FeatureWriter.finish))
        patch.setattr(shards, "drop", dangerous(shards.drop))
        with pytest.raises(Killed):
            many.make_shard(images, Shard(1, 2))
    assert many.make_shard(images, Shard(1, 2))
    assert sums(tmp_path / "many") == sums(tmp_path / "one")
    assert not [path for path in (tmp_path / "many").iterdir() if "shard" in path.name]


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "1 / 2", "a/b"])
def test_a_shard_is_one_of_a_number(text: str) -> None:
    with pytest.raises(InputError, match="--shard is"):
        Shard.parse(text)
    assert Shard.parse("2/2") == Shard(1, 2)
