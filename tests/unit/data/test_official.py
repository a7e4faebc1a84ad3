"""Downloads over file:// URLs."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from udmsh_pl.data.official import fetch, refuse_failed_download, unpack
from udmsh_pl.errors import InputError


def test_fetch_checks_the_md5(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3_000_000)
    md5 = hashlib.md5(source.read_bytes()).hexdigest()
    fetch(source.as_uri(), tmp_path / "out/a.bin", md5)
    assert (tmp_path / "out/a.bin").read_bytes() == source.read_bytes()
    with pytest.raises(InputError, match=r"has 3000000 bytes with MD5 .* try again"):
        fetch(source.as_uri(), tmp_path / "out/b.bin", "0" * 32)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.bin"]


def test_fetch_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    fetch("file:///nowhere", tmp_path / "a.bin", "0" * 32)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_a_failed_download_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(
            InputError,
            match=r"Toy could not be downloaded \(.*\); fetch it from HOME by hand and put it",
        ),
        refuse_failed_download("Toy", "HOME", tmp_path),
    ):
        fetch((tmp_path / "none").as_uri(), tmp_path / "a.bin")


def test_unpack(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("top/a.txt", "a")
        archive.writestr("top/b/c.txt", "c")
    unpack(tmp_path / "a.zip", tmp_path / "named")
    assert (tmp_path / "named/b/c.txt").read_text() == "c"
    unpack(tmp_path / "none.zip", tmp_path / "named")  # it is there already
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:50])
    with pytest.raises(InputError, match="not a whole zip archive"):
        unpack(tmp_path / "cut.zip", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "cut.zip", "named"]
