"""Strangers' pictures: opened as the index opens them, or refused, and the server goes on."""

import contextlib
import io
import os
import signal
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.search.pictures import decode
from udmsh_pl.serve.decoder import Busy, Decoder, Undecodable


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def small() -> Iterator[Decoder]:
    """One with little memory."""
    with closing(Decoder(workers=1, memory=48 << 20)) as one:
        yield one


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pixels_are_those_of_an_index(decoder: Decoder, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    content = saved(Image.fromarray(pixels), kind)
    found, expected = decoder.query(content, 32), decode(content, "", 32)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.thumbnail == expected.thumbnail
    assert (found.width, found.height) == (70, 90)


@pytest.mark.parametrize(
    ("content", "large"),
    [
        (b"", False),
        (b"no picture", False),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", False),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", False),
        (saved(Image.new("RGB", (64, 64)))[:300], False),
        (png(100_000, 100_000), True),
        (png(2**31 - 1, 2**31 - 1), True),
        (png(8000, 8000), False),  # says much, holds nothing
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(
    decoder: Decoder, content: bytes, large: bool
) -> None:
    for ask in (decoder.query, decoder.show):
        with pytest.raises(Undecodable) as told:
            ask(content, 32)
        assert told.value.large == large
        assert "\n" not in str(told.value)
        assert "UDMSH" not in str(told.value) or large
    assert decoder.query(saved(Image.new("RGB", (9, 9))), 32).width == 9


def test_a_bomb_finds_no_memory(small: Decoder) -> None:
    bomb = png(6000, 6000, bytes(6000 * 18001))
    assert len(bomb) < 200_000
    with pytest.raises(Undecodable, match="memory") as told:
        small.query(bomb, 32)
    assert told.value.large
    assert small.query(saved(Image.new("RGB", (99, 99))), 32).width == 99


def test_what_takes_too_long_is_ended_and_its_worker_replaced() -> None:
    slow = saved(Image.new("RGB", (5000, 5000)), "PNG")
    with closing(Decoder(workers=1, seconds=0.05)) as hasty:
        with pytest.raises(Undecodable, match=r"0\.05 s") as told:
            hasty.query(slow, 32)
        assert told.value.large
        assert hasty.query(saved(Image.new("RGB", (9, 9))), 8).height == 9


def children() -> set[int]:
    """Processes that this one has started, by the kernel; others may end meanwhile."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def test_a_worker_that_dies_is_replaced() -> None:
    before = children()
    with closing(Decoder(workers=1)) as decoder:
        (worker,) = children() - before
        os.kill(worker, signal.SIGKILL)
        content = saved(Image.new("RGB", (9, 9)))
        with pytest.raises(Undecodable, match="broke"):
            decoder.query(content, 8)
        assert decoder.query(content, 8).height == 9
        assert worker not in children()
    assert children() <= before


def test_only_so_many_wait() -> None:
    slow = saved(Image.new("RGB", (6000, 6000)), "PNG")
    outcome: list[object] = []
    with closing(Decoder(workers=1, waiting=1, seconds=100)) as decoder:

        def ask() -> None:
            try:
                outcome.append(decoder.query(slow, 8).width)
            except Busy as error:
                outcome.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
    assert sorted(isinstance(one, Busy) for one in outcome) == [False, False, True, True]


def test_a_heic_is_named_with_the_extra_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")  # as if it was not installed
    monkeypatch.syspath_prepend(tmp_path)
    with closing(Decoder(workers=1)) as without:
        for brand in (b"heic", b"mif1"):
            content = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0heicmif1" + bytes(999)
            for ask in (without.query, without.show):
                with pytest.raises(Undecodable, match=r"HEIC, .*pip install 'udmsh-pl\[heif\]'"):
                    ask(content, 32)
        with pytest.raises(Undecodable, match="none of"):
            without.show(b"\0\0\0\x18ftypqt  " + bytes(99), 32)
