"""Reading pictures: the right way up, the same pixels as in training, broken ones told."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from udmsh_pl.errors import InputError
from udmsh_pl.images.ahead import ahead, batched, in_order
from udmsh_pl.images.decode import square
from udmsh_pl.images.transforms import eval_transform
from udmsh_pl.search.pictures import decode, find_pictures
from udmsh_pl.search.searching import cosines, likeness, shortlist

from .conftest import draw


def test_pixels_are_those_of_the_evaluation_transform(tmp_path: Path) -> None:
    for seed, side in ((0, 50), (1, 224), (2, 600)):
        with Image.open(draw(tmp_path / "one.png", seed, side)) as opened:
            image = opened.convert("RGB")
        content = (tmp_path / "one.png").read_bytes()
        pixels = decode(content, "one.png", 224).pixels
        np.testing.assert_array_equal(pixels, eval_transform(224)(image).numpy())
        # torchvision rounds after each of two passes, in another order
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        expected = v2.functional.resize(tensor, [224, 224], v2.InterpolationMode.BICUBIC)
        apart = np.abs(pixels.astype(int) - expected.numpy().astype(int))
        assert apart.max() <= 2
        assert (apart > 1).mean() < 1e-4


def test_a_turned_picture_is_shown_upright(tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "one.png", 0)) as opened:
        image = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it
    stream = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", quality=95, exif=exif)
    found = decode(stream.getvalue(), "one.jpg", 96)
    assert (found.width, found.height) == image.size
    assert np.abs(found.pixels.astype(int) - square(image, 96).astype(int)).mean() < 3
    with Image.open(io.BytesIO(found.thumbnail)) as thumbnail:
        assert thumbnail.size[0] > thumbnail.size[1]


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "1", "I;16", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    level = 255 if mode in ("1", "P") else 200  # palettes hold white, not every grey
    image = Image.new("L", (30, 20), level).convert("RGB").convert(mode if mode != "I;16" else "L")
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 200 * 256, np.uint16))
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    found = decode(stream.getvalue(), "one", 32)
    assert np.abs(found.pixels.astype(int) - level).max() <= 1


def test_what_is_no_picture_is_one_line_with_its_name(tmp_path: Path) -> None:
    whole = draw(tmp_path / "one.png", 0).read_bytes()
    for content in (b"", b"text", whole[:300], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(InputError, match=r"one\.png") as told:
            decode(content, "one.png", 32)
        assert "\n" not in str(told.value)


def test_pictures_are_found_by_ending_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", ".hidden.png", ".git/x.png", "notes.txt", "d.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_pictures(tmp_path)
    assert list(found.files) == ["a/c.png", "b.JPG"]
    assert found.files["b.JPG"].st_size == 2
    assert found.skipped == {
        ".git": "hidden", ".hidden.png": "hidden", "d.svg": "no picture ending (.svg)",
        "loop": "a link to a folder", "notes.txt": "no picture ending (.txt)",
    }  # fmt: skip


def test_threads_keep_the_order_and_a_failure_stops() -> None:
    assert list(in_order(lambda item: item * 2, range(100))) == list(range(0, 200, 2))
    assert list(ahead(batched(range(7), 3))) == [[0, 1, 2], [3, 4, 5], [6]]
    for failing in (in_order, lambda function, items: ahead(map(function, items))):
        with pytest.raises(ZeroDivisionError):
            list(failing(lambda item: 1 / (5 - item), range(100)))


def test_the_shortlist_is_what_sorting_gives_with_its_ties() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (300, 2), dtype=np.uint8)
    code = generator.integers(0, 256, 2, dtype=np.uint8)
    expected = np.unpackbits(codes ^ code, axis=1).sum(1)
    order = np.argsort(expected, kind="stable")
    for count in (1, 7, 299, 300, 1000):
        distances, rows = shortlist(code, codes, count)
        last = expected[order[min(count, 300) - 1]]
        wanted = order[expected[order] <= last]
        np.testing.assert_array_equal(rows, wanted)
        np.testing.assert_array_equal(distances, expected[wanted])
    features = generator.integers(-127, 128, (5, 8), dtype=np.int8)
    features[4] = 0
    found = cosines(features[0], features)
    assert found[0] == pytest.approx(1)
    assert found[4] == 0


def test_a_likeness_is_of_features_and_codes() -> None:
    generator = np.random.default_rng(0)
    features = generator.integers(-127, 128, (6, 8), dtype=np.int8)
    distances = np.array([0, 0, 4, 8, 16, 3])
    of_codes = [1, 1, 0.5, 0, -1, 0.625]
    found = likeness(distances, 16, features[0], features)
    np.testing.assert_allclose(
        found, 0.8 * cosines(features[0], features) + 0.2 * np.array(of_codes)
    )
    assert found[0] == pytest.approx(1)
    nothing = np.empty((6, 0), np.int8)
    np.testing.assert_allclose(likeness(distances, 16, nothing[0], nothing), of_codes)
