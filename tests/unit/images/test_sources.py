"""One decoding for every kind of source; profiles, reduced JPEGs, what lies beside a picture."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, decode, formats, square
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.names import file_called, spelling
from udmsh_pl.images.walk import walk


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def same(one: Image.Image, two: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(two))


def wide_profile() -> bytes:
    """sRGB's profile with the red and green primaries swapped: colours change visibly."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for place in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        tags[bytes(profile[place : place + 4])] = struct.unpack_from(">II", profile, place + 4)
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    start = slice(red[0], red[0] + 20), slice(green[0], green[0] + 20)
    profile[start[0]], profile[start[1]] = profile[start[1]], profile[start[0]]
    return (
        bytes(profile)
        .replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
        .replace(b"sRGB", b"wide")
    )


def test_every_source_of_a_turned_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "rot.jpg"
    smooth(60, 40).save(path, exif=exif, icc_profile=wide_profile())
    expected = decode(path)
    assert expected.size == (40, 60)
    content = path.read_bytes()
    with path.open("rb") as stream, Image.open(path) as opened:
        end = io.BytesIO(content)
        end.seek(0, io.SEEK_END)
        for source in (str(path), content, io.BytesIO(content), end, stream, opened):
            assert decode(source) == expected
        assert not stream.closed
        assert opened.size == (60, 40)  # the caller's picture stays as it was
    pixels = np.asarray(expected)
    assert decode(pixels) == expected
    assert decode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)) == expected
    assert decode(pixels[:, :, 0]).mode == "RGB"
    for wrong in (pixels.astype(float), pixels[None], 7, [pixels]):
        with pytest.raises(InputError, match="is no picture; give a path"):
            decode(wrong)


def test_a_profile_is_converted_but_for_benchmarks(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), (200, 60, 60))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "srgb.png", icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile("sRGB")).tobytes())  # fmt: skip
    image.save(tmp_path / "wide.png", icc_profile=wide_profile())
    image.save(tmp_path / "damaged.png", icc_profile=wide_profile()[:300])
    image.save(tmp_path / "nothing.png", icc_profile=b"no profile")
    image.convert("L").save(tmp_path / "grey.png", icc_profile=wide_profile())
    for name in ("srgb", "damaged", "nothing"):
        assert decode(tmp_path / f"{name}.png") == decode(tmp_path / "plain.png")
    red, green, _ = decode(tmp_path / "wide.png").getpixel((5, 5))  # type: ignore[misc]
    assert green > red + 60
    assert "icc_profile" not in decode(tmp_path / "wide.png").info
    assert same(decode(tmp_path / "grey.png"), image.convert("L").convert("RGB"))
    raw = ImageList(["wide.png"], np.zeros((1, 0), bool), tmp_path, upright=False)
    assert same(raw.load(0), image)


def test_scans_are_counted_to_the_first_end_of_the_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    smooth(300, 200).save(stream, "JPEG", progressive=True)
    motion = stream.getvalue() + 99 * b"\xff\xda a video"
    assert decode(motion) == decode(stream.getvalue())
    many = [smooth(90, 60, seed) for seed in range(20)]
    pages = io.BytesIO()
    many[0].save(pages, "MPO", save_all=True, append_images=many[1:], progressive=True)
    assert decode(pages).size == (90, 60)


def test_text_beside_a_picture_never_decides(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("long", "x" * 3_000_000, zip=True)
    for _ in range(70):
        text.add_itxt("more", "y" * 1_000_000, zip=True)
    smooth(30, 20).save(tmp_path / "a.png", pnginfo=text)
    assert same(decode(tmp_path / "a.png"), smooth(30, 20))
    whole = (tmp_path / "a.png").read_bytes()
    profile = b"big\0\0" + zlib.compress(bytes(3_000_000))
    chunk = struct.pack(">I", len(profile)) + b"iCCP" + profile
    chunk += struct.pack(">I", zlib.crc32(b"iCCP" + profile))
    assert same(decode(whole[:33] + chunk + whole[33:]), smooth(30, 20))


def test_a_jpeg_is_decoded_reduced_where_little_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth(1601, 1000).save(tmp_path / "a.jpg", quality=95)
    smooth(1601, 1000).save(tmp_path / "progressive.jpg", progressive=True)
    whole, small = decode(tmp_path / "a.jpg"), decode(tmp_path / "a.jpg", at_least=250)
    assert (whole.size, whole.info["size"]) == ((1601, 1000), (1601, 1000))
    assert (small.size, small.info["size"]) == ((401, 250), (1601, 1000))
    apart = square(whole, 96).astype(int) - square(small, 96).astype(int)
    assert np.abs(apart).mean() < 1
    assert decode(tmp_path / "a.jpg", at_least=501).size == (1601, 1000)
    assert ImageList(["a.jpg"], np.zeros((1, 0), bool), tmp_path, upright=False).load(0, 50) == (
        decode(tmp_path / "a.jpg", upright=False)
    )
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "500_000")  # the limit is on what is held in memory
    assert decode(tmp_path / "a.jpg").size == (801, 500)
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "10_000")
    with pytest.raises(UnreadablePicture, match="1601 x 1000, more than 10,000 pixels"):
        decode(tmp_path / "a.jpg")
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "500_000")
    with pytest.raises(UnreadablePicture, match="more than 500,000 pixels"):
        decode(tmp_path / "progressive.jpg")  # libjpeg would hold all of it


def test_heic_under_another_ending_is_named() -> None:
    if "HEIF" in formats():
        pytest.skip("this Pillow reads HEIC")
    with pytest.raises(UnreadablePicture, match=r"it is HEIC, which needs the extra: pip install"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_folders_of_systems_are_left_out_with_the_reason(tmp_path: Path) -> None:
    for name in ("@eaDir/a.jpg", "$RECYCLE.BIN/b.jpg", "__MACOSX/c.jpg", "d.jpg", "e.mov", "f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "g.jpg").symlink_to("nowhere")
    found = walk(tmp_path)
    assert list(found.files) == ["d.jpg"]
    assert set(found.skipped.values()) == {
        "a folder of the system", "a video", "no ending", "a broken link",
    }  # fmt: skip
    assert len(found.skipped) == 6


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "@EADIR", "#recycle", "#snapshot", "$RECYCLE.BIN", ".Trash-1000", ".thumbnails",
     "__MACOSX", "System Volume Information", "lost+found"],
)  # fmt: skip
def test_no_picture_of_a_system_folder_is_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / "below" / folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", f"below/{folder}/b.jpg", f"below/{folder}/deep/c.jpg", "below/._d.jpg"):
        (tmp_path / name).touch()
    found = walk(tmp_path)
    assert list(found.files) == ["a.jpg"]
    assert list(found.skipped) == sorted([f"below/{folder}", "below/._d.jpg"])
    assert found.why(f"below/{folder}/deep/c.jpg") in ("a folder of the system", "hidden")
    assert found.why("a.jpg") == ""


def test_a_folder_with_nomedia_is_left_out_unless_it_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "cache/below").mkdir(parents=True)
    for name in ("a.jpg", "cache/b.jpg", "cache/.nomedia", "cache/below/c.jpg"):
        (tmp_path / name).touch()
    assert walk(tmp_path).skipped == {"cache": "a folder with .nomedia"}
    assert list(walk(tmp_path / "cache").files) == ["b.jpg", "below/c.jpg"]


def test_names_in_another_unicode_form_meet(tmp_path: Path) -> None:
    folder, name = "e\u0301te\u0301", "u\u0308.png"
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).touch()
    other = tmp_path / "\u00e9t\u00e9" / "\u00fc.png"
    assert not other.exists()
    assert file_called(other) == tmp_path / folder / name
    assert file_called(tmp_path / "\u00e4.png") == tmp_path / "\u00e4.png"
    (tmp_path / folder / "\u00fc.png").touch()
    assert file_called(tmp_path / folder / name).name == name


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        ("A\\b.jpg", "write /"), ("a/B.JPG", "letter case"), ("a/\u00e9.jpg", "Unicode form"),
        ("a/none.jpg", ""), ("a/b.jpg/c.jpg", ""),
    ],
)  # fmt: skip
def test_the_cause_of_an_absent_file_is_named(tmp_path: Path, written: str, cause: str) -> None:
    for folder in ("a", "A"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "b.jpg").touch()
    (tmp_path / "a/e\u0301.jpg").touch()
    found = spelling(tmp_path / written)
    assert cause in found
    assert bool(cause) == bool(found)


def dng(preview: Image.Image, orientation: int) -> bytes:
    """A camera's file: a JPEG preview, and behind it 32 x 32 raw values."""
    stream = io.BytesIO()
    preview.save(stream, "JPEG", quality=95)
    jpeg, raw = stream.getvalue(), np.full((32, 32), 999, "<u2").tobytes()
    width, height = preview.size
    first = 8 + len(jpeg) + len(jpeg) % 2
    second = first + len(raw)

    def table(start: int, entries: list[tuple[int, int, list[int]]]) -> bytes:
        """A TIFF table at ``start`` and the values that do not fit in it."""
        sizes = {1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4)}
        head, behind = struct.pack("<H", len(entries)), b""
        place = start + 2 + 12 * len(entries) + 4
        for tag, kind, values in sorted(entries):
            data = struct.pack(f"<{len(values)}{sizes[kind][0]}", *values)
            if len(data) > 4:
                offset = place + len(behind)
                behind += data + b"\0" * (len(data) % 2)
                data = struct.pack("<I", offset)
            head += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
        return head + struct.pack("<I", 0) + behind

    cfa = table(second, [
        (254, 4, [0]), (256, 4, [32]), (257, 4, [32]), (258, 3, [16]), (259, 3, [1]),
        (262, 3, [32803]), (273, 4, [first]), (277, 3, [1]), (278, 4, [32]), (279, 4, [len(raw)]),
        (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2]),
    ])  # fmt: skip
    start = second + len(cfa)
    camera = list(b"Camera\0")
    main = table(start, [
        (254, 4, [1]), (256, 4, [width]), (257, 4, [height]), (258, 3, [8, 8, 8]), (259, 3, [7]),
        (262, 3, [6]), (271, 2, camera), (272, 2, camera), (273, 4, [8]), (274, 3, [orientation]),
        (277, 3, [3]), (278, 4, [height]), (279, 4, [len(jpeg)]), (330, 4, [second]),
        (50706, 1, [1, 4, 0, 0]), (50708, 2, camera),
    ])  # fmt: skip
    body = (jpeg + b"\0" * (len(jpeg) % 2)) + raw + cfa + main
    return struct.pack("<2sHI", b"II", 42, start) + body


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_raw_file_gives_its_preview(tmp_path: Path, orientation: int) -> None:
    pytest.importorskip("rawpy")
    picture = Image.fromarray(
        np.arange(96 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 96, 3)
    )
    picture = picture.resize((12, 8)).resize((96, 64), Image.Resampling.BICUBIC)
    path = tmp_path / "a.dng"
    path.write_bytes(dng(picture, orientation))
    assert list(walk(tmp_path).files) == ["a.dng"]
    found = decode(path)
    wanted = picture if orientation == 1 else picture.transpose(Image.Transpose.ROTATE_270)
    assert found.size == wanted.size
    assert np.abs(np.asarray(found, float) - np.asarray(wanted)).mean() < 8
    assert np.array_equal(np.asarray(decode(path.read_bytes())), np.asarray(found))


def test_raw_without_its_extra_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udmsh_pl.images.decode.reads_raw", lambda: False)
    content = dng(Image.new("RGB", (96, 64)), 1)
    (tmp_path / "a.DNG").write_bytes(content)
    assert walk(tmp_path).skipped == {"a.DNG": "RAW: needs the extra: pip install 'udmsh-pl[raw]'"}
    with pytest.raises(UnreadablePicture, match=r"it is RAW, .*udmsh-pl\[raw\]"):
        decode(content)


def test_a_plain_tiff_of_a_camera_is_no_raw(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "a.tif", tiffinfo={271: "Camera"})
    assert decode(tmp_path / "a.tif").getpixel((3, 3)) == (255, 0, 0)
