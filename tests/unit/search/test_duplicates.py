"""Copies are found and named, look-alikes are left alone; nothing on the disk is touched."""

import argparse
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from udmsh_pl.commands import duplicates
from udmsh_pl.errors import InputError
from udmsh_pl.search import ImageIndex
from udmsh_pl.search.duplicates import (
    NEIGHBOURS,
    candidates,
    nearest_pairs,
    patterns_of,
    rotation_candidates,
    signatures_of,
)
from udmsh_pl.search.overlap import (
    Details,
    details_of,
    open_thumbnail,
    overlap,
    overlaps,
)
from udmsh_pl.search.verification import largest_difference


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
        ("cropped", lambda image: image.crop((0, 0, 176, 144))),
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


@pytest.mark.parametrize("cuts", [True, False])
def test_many_pairs_at_once_are_laid_as_each_alone(cuts: bool) -> None:
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: image.crop((10, 0, 190, 130)),
        lambda image: image.crop((0, 14, 172, 144)),
        ImageOps.mirror,
        lambda image: image.rotate(270, expand=True),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    ]
    images = [scene(seed) for seed in range(6)]
    images += [change(image) for change, image in zip(changes, images, strict=True)]
    planes = np.stack([details_of(image) for image in images])
    ones, others = (row.ravel() for row in np.indices((12, 12)))
    pairs = [Details(planes[rows]) for rows in (ones, others)]
    found = overlaps(*pairs, np.full(144, cuts))
    assert sum(one.is_copy for one in found) == (24 if cuts else 20)  # itself, six pairs both ways
    details = [Details(plane) for plane in planes]
    for one, other, way in zip(ones, others, found, strict=True):
        alone = overlap(details[one], details[other], cuts)
        assert way.agreement == pytest.approx(alone.agreement, abs=1e-5)
        if way.is_copy:
            assert (way.relation, way.placement) == (alone.relation, alone.placement)
    nothing = Details(planes[:0])
    assert overlaps(nothing, nothing, np.zeros(0, dtype=bool)) == []


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


def proposed(thumbnails: list[bytes]) -> list[tuple[int, int]]:
    return rotation_candidates(signatures_of([open_thumbnail(one) for one in thumbnails]))


def test_rotated_pictures_are_proposed_and_others_are_not() -> None:
    scenes = [scene(seed) for seed in range(12)]
    ways = [*(Image.Transpose(way) for way in range(7))]
    turned = [thumbnail(scenes[row].transpose(way), 50) for row, way in enumerate(ways)]
    both = [*map(thumbnail, scenes), *turned, thumbnail(Image.new("RGB", (9, 9), "white"))]
    assert set(proposed(both)) >= {(row, 12 + row) for row in range(7)}
    assert len(set(proposed(both))) <= 10
    assert proposed([both[0]]) == rotation_candidates(np.empty((0, 30), np.float32)) == []
    lying = [both[0], thumbnail(scenes[0].rotate(90, expand=True).resize((144, 192)))]
    assert proposed(lying) == [(0, 1)]


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
    found = [(one, two) for one, two, _ in candidates(codes, features, 2, np.arange(50))]
    assert len(set(found)) == len(found)
    assert {(row, row + 25) for row in range(5)} <= set(found)
    assert not {(row, row + 25) for row in range(5, 25)} & set(found)
    unit = features / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    assert all(unit[one] @ unit[two] >= 0.5 for one, two in found)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_nearest_pairs_are_those_of_all_cosines(count: int) -> None:
    vectors = np.random.default_rng(1).integers(-127, 128, (60, 8), dtype=np.int8)
    chosen = np.arange(0, 60)[:count] + 3
    rows = vectors[chosen] / np.linalg.norm(vectors[chosen].astype(float), axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 2)  # each is its own nearest
    expected = {
        tuple(sorted((one + 3, two + 3)))
        for one in range(count)
        for two in np.argsort(-cosines[one])[1 : NEIGHBOURS + 1].tolist()
        if cosines[one, two] >= 0.3
    }
    pairs, alike = nearest_pairs(vectors, chosen, 0.3)
    assert sorted(map(tuple, pairs.tolist())) == sorted(expected)
    found = [cosines[one - 3, two - 3] for one, two in pairs.tolist()]
    np.testing.assert_allclose(alike, found, atol=1e-6)


def test_no_change_of_colours_hides_a_pattern() -> None:
    patterns = patterns_of(np.stack([details_of(scene(seed)) for seed in range(20)]))
    grey = patterns_of(np.stack([details_of(scene(seed).convert("L")) for seed in range(20)]))
    pairs, _ = nearest_pairs(np.concatenate([patterns, grey]), np.arange(40), 0.85)
    assert pairs.tolist() == [[seed, seed + 20] for seed in range(20)]


def detailed(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A photo's stand-in: large shapes, and fine ones on them."""
    generator = np.random.default_rng(seed)
    planes = []
    for cells, height in (((12, 16), 170), ((60, 80), 60), ((240, 320), 20)):
        plane = generator.integers(0, height, (*cells, 3), dtype=np.uint8)
        resized = Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)
        planes.append(np.asarray(resized, dtype=np.int16))
    return Image.fromarray(np.clip(sum(planes), 0, 255).astype(np.uint8))


def write(image: Image.Image, text: str, place: tuple[int, int]) -> Image.Image:
    image = image.copy()
    font = ImageFont.load_default(30)
    ImageDraw.Draw(image).text(place, text, (250, 250, 250), font, stroke_width=2, stroke_fill=0)
    return image


def saved(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(thumbnail(image, quality))).convert("RGB")


def difference(one: Image.Image, two: Image.Image) -> float:
    small = [one.copy(), two.copy()]
    for image in small:
        image.thumbnail((192, 192))
    found = overlap(*(Details(thumbnail(image)) for image in small))
    assert found.is_copy
    return largest_difference(one, two, found.placement)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, 30),
        lambda image: saved(image.resize((320, 240)), 60),
        lambda image: image.crop((20, 10, 600, 445)),
        lambda image: saved(ImageOps.mirror(image), 80),
        lambda image: image.rotate(90, expand=True),
        lambda image: ImageEnhance.Brightness(image).enhance(1.3),
        lambda image: ImageEnhance.Brightness(image).enhance(1.6),  # lights are clipped
        lambda image: image.point(lambda value: 255 * (value / 255) ** 0.5),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.convert("L").convert("RGB"),
    ],
)
def test_files_of_copies_differ_nowhere(change: Callable[[Image.Image], Image.Image]) -> None:
    original = detailed(1)
    copy = change(original)
    assert difference(original, copy) < 0.8
    assert difference(copy, original) < 0.8


def test_files_with_another_caption_differ_somewhere() -> None:
    photo = detailed(2)
    one, two = write(photo, "happy new year", (60, 400)), write(photo, "see you soon", (60, 400))
    assert difference(one, two) > 1.2
    assert difference(saved(one, 60), saved(photo, 60)) > 1.2
    page = Image.new("RGB", (600, 800), "white")
    for line in range(12):
        page = write(page, f"line {line} of a form", (40, 40 + line * 60))
    first, second = write(page, "41 872", (400, 400)), write(page, "90 365", (400, 400))
    assert difference(first, second) > 1.2
    assert difference(saved(first, 50), saved(first.resize((300, 400)), 80)) < 0.8


@pytest.fixture
def album(place: Path) -> Path:
    """The folder of an index whose twelve pictures have no copies."""
    return place / "pictures"


def groups_of(place: Path) -> list[list[tuple[str, str]]]:
    """Relation and name of each picture of each group."""
    index = ImageIndex.open(place / "index")
    index.update()
    return [[(one.relation, one.path.name) for one in group] for group in index.duplicates()]


def test_a_link_is_never_kept_and_frees_nothing(place: Path, album: Path) -> None:
    (album / "a best").mkdir()
    (album / "a best/link.png").symlink_to("../03.png")
    os.link(album / "04.png", album / "hard.png")
    shutil.copy2(album / "05.png", album / "zz.png")
    os.link(album / "zz.png", album / "zzz.png")
    found = {group[0][1]: group[1:] for group in groups_of(place)}
    assert found == {
        "03.png": [("link", "link.png")],
        "04.png": [("link", "hard.png")],
        "05.png": [("exact", "zz.png"), ("link", "zzz.png")],
    }


def test_links_to_one_outside_picture_are_no_group(place: Path, tmp_path: Path) -> None:
    detailed(5).save(tmp_path / "outside.png")
    for name in ("one.png", "two.png"):
        (place / "pictures" / name).symlink_to(tmp_path / "outside.png")
    assert groups_of(place) == []


def test_a_caption_makes_a_similar_picture_and_no_copy(place: Path, album: Path) -> None:
    photo = detailed(3)
    for name, text in (("a.jpg", "happy new year"), ("b.jpg", "see you soon")):
        write(photo, text, (60, 400)).save(album / name, quality=90)
    write(photo, "see you soon", (60, 400)).resize((320, 240)).save(album / "small.jpg")
    index = ImageIndex.open(place / "index")
    index.update()
    (group,) = index.duplicates()
    relations = {one.path.name: one.relation for one in group}
    assert relations["small.jpg"] == ("resized" if group[0].path.name == "b.jpg" else "similar")
    assert "similar" in relations.values()
    assert all(one.is_copy == (one.relation == "resized") and one.verified for one in group)


def test_only_copies_of_the_kept_picture_are_in_its_group(place: Path, album: Path) -> None:
    whole = detailed(4, (1200, 900))
    whole.crop((0, 0, 1000, 900)).save(album / "left.jpg", quality=92)
    whole.crop((200, 0, 1200, 900)).save(album / "right.jpg", quality=92)
    whole.resize((300, 225)).save(album / "whole.jpg", quality=92)
    relations = dict(one for group in groups_of(place) for one in group)
    assert set(relations) <= {"first", "cropped"}


def test_the_picture_that_most_others_are_copies_of_is_kept(place: Path, album: Path) -> None:
    """The mirrored file is as large in pixels and larger in bytes, and no cut is a copy of it."""
    whole = detailed(5, (800, 600))
    whole.save(album / "whole.jpg", quality=85)
    ImageOps.mirror(whole).save(album / "mirrored.jpg", quality=97)
    whole.crop((40, 30, 800, 600)).save(album / "cut.jpg", quality=90)
    whole.resize((400, 300)).save(album / "small.jpg", quality=90)
    (group,) = groups_of(place)
    assert group[0] == ("first", "whole.jpg")
    assert sorted(group[1:]) == [
        ("cropped", "cut.jpg"), ("mirrored", "mirrored.jpg"), ("resized", "small.jpg")
    ]  # fmt: skip


def test_a_picture_that_lost_its_lights_is_not_kept(place: Path, album: Path) -> None:
    """It has more bytes than the others, and differs from them where light is gone."""
    whole = detailed(6, (800, 600))
    whole.save(album / "whole.jpg", quality=85)
    ImageEnhance.Brightness(whole).enhance(1.5).save(album / "bright.jpg", quality=97)
    ImageOps.mirror(whole).save(album / "mirrored.jpg", quality=80)
    (group,) = groups_of(place)
    assert group[0] == ("first", "whole.jpg")
    assert sorted(group[1:]) == [("mirrored", "mirrored.jpg"), ("recompressed", "bright.jpg")]


def test_a_file_that_is_gone_is_unverified(place: Path, album: Path) -> None:
    detailed(6).save(album / "a.png")
    detailed(6).save(album / "b.jpg", quality=80)
    index = ImageIndex.open(place / "index")
    index.update()
    shutil.copy2(album / "07.png", album / "twin.png")
    index.update()
    (album / "b.jpg").write_bytes(b"another")
    (album / "07.png").write_bytes(b"another")
    (exact,) = [group for group in index.duplicates() if group[1].relation == "exact"]
    assert [one.verified for one in exact] == [True, False]
    (group,) = [group for group in index.duplicates() if group[1].relation != "exact"]
    assert [(one.relation, one.verified) for one in group] == [
        ("first", True),
        ("recompressed", False),
    ]


def test_the_command_prints_json_with_every_name(
    place: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "new\nline \udcff.png"
    shutil.copy2(album / "01.png", album / name)
    ImageIndex.open(place / "index").update()
    parser = argparse.ArgumentParser()
    duplicates.add_arguments(parser)
    assert duplicates.run(parser.parse_args([str(place / "index"), "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    (group,) = found["groups"]
    assert [one["path"] for one in group] == [str(album / "01.png"), str(album / name)]
    assert (found["copies"], group[1]["relation"], group[1]["verified"]) == (1, "exact", True)
    assert found["bytes"] == (album / "01.png").stat().st_size
