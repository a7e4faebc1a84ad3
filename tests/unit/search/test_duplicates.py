"""Copies are found and named, look-alikes are left alone; nothing on the disk is touched."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from udmsh_pl.errors import InputError
from udmsh_pl.search import ImageIndex
from udmsh_pl.search.duplicates import candidates
from udmsh_pl.search.overlap import Details, overlap
from udmsh_pl.search.turned import turned_candidates


def thumbnail(image: Image.Image, quality: int = 75) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((192, 144), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("relation", "change"),
    [
        ("recompressed", lambda image: ImageEnhance.Brightness(image).enhance(1.2)),
        ("recompressed", lambda image: image.resize((64, 48))),
        ("recompressed", lambda image: image.convert("L")),
        ("mirrored", ImageOps.mirror),
        ("rotated", lambda image: image.rotate(90, expand=True)),
        ("rotated", ImageOps.flip),
        ("cropped", lambda image: image.crop((10, 0, 190, 130))),
    ],
)
def test_the_way_from_one_picture_to_its_copy(relation: str, change: object) -> None:
    original = scene(0)
    for one, two in ((original, change(original)), (change(original), original)):
        found = overlap(Details(thumbnail(one)), Details(thumbnail(two, 40)))
        assert found.relation == relation
        assert found.is_copy


def test_different_pictures_do_not_agree() -> None:
    details = [Details(thumbnail(scene(seed))) for seed in range(8)]
    details.append(Details(thumbnail(Image.new("RGB", (192, 144), "grey"))))
    for one in range(9):
        for two in range(one):
            assert not overlap(details[one], details[two]).is_copy


def test_groups_name_what_happened(place: Path) -> None:
    pictures = place / "pictures"
    with Image.open(pictures / "01.png") as image:
        image.load()
    large = image.resize((512, 384), Image.Resampling.BICUBIC)
    large.save(pictures / "first.png")
    large.save(pictures / "a.jpg", quality=60)
    (pictures / "twin.png").write_bytes((pictures / "first.png").read_bytes())
    ImageOps.mirror(large).save(pictures / "mirror.png")
    before = sorted(path.name for path in pictures.iterdir())
    index = ImageIndex.open(place / "index")
    index.update()
    (group,) = index.duplicates()
    assert group[0].path.name in ("first.png", "mirror.png", "twin.png")
    told = {copy.path.name: copy.relation for copy in group}
    if group[0].path.name == "mirror.png":
        assert told["first.png"] == told["twin.png"] == told["a.jpg"] == "mirrored"
    else:
        assert {told["first.png"], told["twin.png"]} == {"first", "exact"}
        assert (told["a.jpg"], told["01.png"], told["mirror.png"]) == (
            "recompressed",
            "resized",
            "mirrored",
        )
    assert len(group) == 5
    assert sorted(path.name for path in pictures.iterdir()) == before
    assert [len(group) for group in index.duplicates(radius=0)] <= [5]
    with pytest.raises(InputError, match="radius is -1"):
        index.duplicates(-1)


def test_turned_pictures_are_proposed_and_others_are_not() -> None:
    scenes = [scene(seed) for seed in range(12)]
    ways = [*(Image.Transpose(way) for way in range(7))]
    turned = [thumbnail(scenes[row].transpose(way), 50) for row, way in enumerate(ways)]
    both = [*map(thumbnail, scenes), *turned, thumbnail(Image.new("RGB", (9, 9), "white"))]
    assert set(turned_candidates(both)) >= {(row, 12 + row) for row in range(7)}
    assert len(set(turned_candidates(both))) <= 10
    assert list(turned_candidates([both[0]])) == list(turned_candidates([])) == []
    lying = both[0], thumbnail(scenes[0].rotate(90, expand=True).resize((144, 192)))
    assert list(turned_candidates(lying)) == [(0, 1)]


def test_a_turned_copy_is_found(place: Path) -> None:
    with Image.open(place / "pictures/05.png") as image:
        image.rotate(270, expand=True).save(place / "pictures/turned.jpg", quality=80)
    index = ImageIndex.open(place / "index")
    index.update()
    (group,) = index.duplicates()
    assert {copy.path.name for copy in group} == {"05.png", "turned.jpg"}
    assert [copy.relation for copy in group] == ["first", "rotated"]


def test_candidates_are_near_in_both_ways_and_come_once() -> None:
    generator = np.random.default_rng(0)
    features = generator.integers(-127, 128, (50, 16), dtype=np.int8)
    features[25:] = features[:25]
    features[25:, 0] += 1
    codes = np.zeros((50, 1), np.uint8)
    codes[30:, 0] = 7
    found = [(one, two) for one, two, _ in candidates(codes, features, 2)]
    assert len(set(found)) == len(found)
    assert {(row, row + 25) for row in range(5)} <= set(found)
    assert not {(row, row + 25) for row in range(5, 25)} & set(found)
    unit = features / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    assert all(unit[one] @ unit[two] >= 0.5 for one, two in found)
