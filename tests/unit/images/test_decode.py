"""Decoding: formats, limits, orientation and kinds of pixels."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, decode, formats, no_picture, to_rgb
from udmsh_pl.images.image_list import ImageList

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
# what a viewer does to the stored rows and columns, written without Pillow
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def save_with_orientation(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif.tobytes(), lossless=True)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_tag_says(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    path = tmp_path / f"a.{ending}"
    save_with_orientation(path, orientation)
    with Image.open(path) as image:
        theirs = np.asarray(ImageOps.exif_transpose(image))
    with Image.open(path) as image:
        stored = np.asarray(image) if ending == "jpg" else PIXELS  # JPEG is not exact
    turned = np.asarray(decode(path))
    assert np.array_equal(turned, UPRIGHT[orientation](stored))
    assert np.array_equal(turned, theirs)
    raw = ImageList([path.name], np.zeros((1, 0), bool), tmp_path, upright=False)
    kept = np.asarray(raw.select([0]).load(0))
    assert np.array_equal(kept, turned if ending == "tif" else stored)  # Pillow turns TIFF itself


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_mean_nothing_and_damaged_tags(tmp_path: Path, orientation: int) -> None:
    save_with_orientation(tmp_path / "a.jpg", orientation)
    assert decode(tmp_path / "a.jpg").size == (40, 24)
    whole = (tmp_path / "a.jpg").read_bytes()
    start = whole.index(b"Exif\0\0") + 6
    for place in range(start, start + 26):
        for value in (0, 127, 255):
            changed = whole[:place] + bytes([value]) + whole[place + 1 :]
            assert decode(io.BytesIO(changed)).size in ((40, 24), (24, 40))


@pytest.mark.parametrize(
    "ending", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif"]
)
def test_formats_of_the_list(tmp_path: Path, ending: str) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}")
    assert decode(tmp_path / f"a.{ending}").size == (40, 24)
    assert no_picture(f".{ending}") == ""


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UnreadablePicture, match=r"a\.jpg: not a readable image \(it is empty: 0 b"):
        decode(tmp_path / "a.jpg")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_picture_never_starts_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "a.jpg").write_bytes(EPS)
    with pytest.raises(InputError, match=r"a\.jpg: not a readable image \(it is none of JPEG"):
        decode(tmp_path / "a.jpg")
    assert not (tmp_path / "ran").exists()
    assert "EPS" not in formats()


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "DDS", "IM", "EPS", "PDF"])
def test_other_formats_that_pillow_knows_are_refused(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", kind)
    with pytest.raises(UnreadablePicture, match="it is none of"):
        decode(tmp_path / "a.jpg")


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + 4 * side)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bomb(9_000))
    code = (
        "import resource, sys; from pathlib import Path; from udmsh_pl.images.decode import *\n"
        "formats()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode(Path(sys.argv[1]))\n"
        "except UnreadablePicture as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    told, grown = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "9000 x 9000, more than 64,000,000 pixels; set UDMSH_MAX_PIXELS higher" in told
    assert int(grown) < 50_000  # kB


def test_limits_can_be_raised_and_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # put back afterwards
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "959")
    with pytest.raises(UnreadablePicture, match="40 x 24, more than 959 pixels"):
        decode(tmp_path / "a.png")
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "960")
    assert decode(tmp_path / "a.png").size == (40, 24)
    monkeypatch.setenv("UDMSH_MAX_BYTES", "100")
    with pytest.raises(UnreadablePicture, match="more than 100 bytes; set UDMSH_MAX_BYTES"):
        decode(tmp_path / "a.png")


def test_large_pictures_within_the_limit_cost_eight_bytes_a_pixel(tmp_path: Path) -> None:
    """What a picture of 64 million pixels may take is told by one of 9 million, transparent."""
    Image.new("RGBA", (3000, 3000), (9, 9, 9, 128)).save(tmp_path / "a.png")
    code = (
        "import resource, sys; from pathlib import Path; from udmsh_pl.images.decode import *\n"
        "formats()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown * 1024 < 9e6 * 8 + 60e6


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadablePicture, match=r"a\.jpg: not a readable image \(it is a pipe"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(UnreadablePicture, match="a device"):
        decode(Path("/dev/zero"))


def test_a_jpeg_with_scans_without_end_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", progressive=True)
    assert decode(tmp_path / "a.jpg").size == (40, 24)
    whole = (tmp_path / "a.jpg").read_bytes()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + 100 * scan + whole[-2:])
    with pytest.raises(UnreadablePicture, match="scans, more than 64"):
        decode(tmp_path / "a.jpg")


def test_what_went_wrong_is_told_and_travels(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(UnreadablePicture) as caught:
        decode(tmp_path / "a.jpg")
    error = pickle.loads(pickle.dumps(caught.value))  # as from a worker process
    assert (error.lasting, error.absent) == (True, False)
    with pytest.raises(UnreadablePicture) as caught:
        decode(tmp_path / "none.jpg")
    assert (caught.value.lasting, caught.value.absent) == (False, True)
    with pytest.raises(UnreadablePicture, match="File name too long"):
        decode(tmp_path / ("x" * 300))
    with pytest.raises(UnreadablePicture, match="null"):
        decode(tmp_path / "a\0.jpg")
    with pytest.raises(UnreadablePicture, match="this picture: not a readable image"):
        decode(io.BytesIO(b"no picture"))


def test_a_passing_error_is_not_held_against_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")

    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(UnreadablePicture) as caught:
        decode(tmp_path / "a.png")
    assert not caught.value.lasting


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    expected = [0, 0, 1, 0x80, 0xFF]
    assert np.asarray(to_rgb(Image.fromarray(deep)))[0, :, 1].tolist() == expected
    head = b"P5 5 1 65535\n"
    (tmp_path / "a.pgm").write_bytes(head + deep.astype(">u2").tobytes())
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    for name in ("a.pgm", "a.png", "a.tif"):
        assert np.asarray(decode(tmp_path / name))[0, :, 1].tolist() == expected, name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0, 100, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0, 256, 65535.0]], np.float32), [0, 1, 255]),
        (np.array([[-1, 0, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 300, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 2**20, 2**21]], np.int32), [0, 127, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 127, 255]),
        (np.array([[7, 7, 7]], np.int32), [7, 7, 7]),
        (np.array([[70_000] * 3], np.int32), [0, 0, 0]),
    ],
)
def test_wide_grey_is_scaled_by_its_range(
    tmp_path: Path, values: np.ndarray, expected: list
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif"))[0, :, 2].tolist() == expected


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, wrong: float) -> None:
    Image.fromarray(np.array([[0, wrong, 1]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadablePicture, match="not finite"):
        decode(tmp_path / "a.tif")


def test_strips_give_what_the_whole_gives() -> None:
    large = np.tile(PIXELS, (60, 50, 1))  # over two million pixels: more than a strip
    rgba = np.dstack([large, large[:, :, 0]])
    image = Image.fromarray(rgba)
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(expected))


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(".mov", "a video"), (".txt", r"no picture ending (.txt)"), ("", "no ending"), (".jpg", "")],
)
def test_why_a_file_is_no_picture(ending: str, reason: str) -> None:
    assert no_picture(ending) == reason


def test_heic_needs_its_extra() -> None:
    told = no_picture(".heic")
    assert told == "" if "HEIF" in formats() else "pip install 'udmsh-pl[heif]'" in told
