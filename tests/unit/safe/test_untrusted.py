"""Limits, and checks that come before any parser."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import check_archive, check_file, exists, limit, over, read_file


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit("PIXELS") == 64_000_000
    monkeypatch.setenv("UDMSH_MAX_PIXELS", "1_000")
    assert limit("PIXELS") == 1000
    assert over("PIXELS") == "more than 1,000 pixels; set UDMSH_MAX_PIXELS higher if you trust it"
    for wrong in ("0", "-1", "many", "1e6", "²"):
        monkeypatch.setenv("UDMSH_MAX_PIXELS", wrong)
        with pytest.raises(InputError, match="UDMSH_MAX_PIXELS is"):
            limit("PIXELS")


def test_only_regular_files_of_a_fair_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "a", "list") == b"12345"
    for path, reason in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (Path(os.devnull), "a device"),
        (tmp_path / "none", "No such file"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(InputError, match=f"cannot read this list .*{reason}"):
            check_file(path, "list")
        assert "\n" not in reason
    assert not exists(tmp_path / ("x" * 300))
    assert not exists(tmp_path / "a\0b")
    monkeypatch.setenv("UDMSH_MAX_BYTES", "4")
    with pytest.raises(InputError, match="5 bytes, more than 4 bytes; set UDMSH_MAX_BYTES"):
        read_file(tmp_path / "a", "list")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_flipped_bit_in_any_member_is_found(tmp_path: Path, method: int) -> None:
    path, content = tmp_path / "a.zip", bytes(range(256)) * 8
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("first", b"abc")
        archive.writestr("second", content)
    check_archive(path)
    whole = path.read_bytes()
    start = whole.index(b"second") + 6
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"a\.zip: .*copy it again"):
            check_archive(path)


def test_one_flipped_bit_in_a_checkpoint_is_found_though_torch_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"weight": torch.arange(1000.0)}}, path)
    check_archive(path)
    whole = path.read_bytes()
    place = whole.index(torch.tensor([500.0, 501.0]).numpy().tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert torch.load(path, weights_only=True)["state_dict"]["weight"][500] != 500
    with pytest.raises(InputError, match=r"a\.ckpt: its checksum is another; it is cut short or"):
        check_archive(path)


def test_what_passes_is_what_torch_reads(tmp_path: Path) -> None:
    path, weight = tmp_path / "a.ckpt", torch.arange(100.0)
    torch.save({"weight": weight}, path)
    whole, passed = path.read_bytes(), 0
    start = whole.rindex(b"a/data/0") - 46  # its entry in the directory, which has no checksum
    for bit in range(8 * start, 8 * (start + 46 + len("a/data/0"))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            check_archive(path)
            found = torch.load(path, weights_only=True)["weight"]
        except (InputError, RuntimeError, KeyError, pickle.UnpicklingError):
            continue
        passed += 1
        assert torch.equal(found, weight), f"bit {bit % 8} of byte {bit // 8 - start}"
    assert passed > 50  # dates, and who made it


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 10])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="not a zip file"):
        check_archive(tmp_path / "a")


def test_members_that_stand_twice_or_unpack_to_too_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(2000))
    with pytest.raises(InputError, match="unpacks to more than"):
        check_archive(tmp_path / "a", most=1999)
    check_archive(tmp_path / "a", most=2000)
    with (
        zipfile.ZipFile(tmp_path / "a", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("x", b"1")
    with pytest.raises(InputError, match="a member stands twice"):
        check_archive(tmp_path / "a")
