"""The feature store: whole or never used, resumed after a kill at the last finished block."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.features import verified
from udmsh_pl.features.store import FeatureWriter, open_features, store_facts

SHAPES = {"global_feature": (3,), "feature_map": (2, 2, 2)}
KEY = {"backbone": "x", "rows": 10}


def block(start: int, stop: int) -> dict[str, np.ndarray]:
    rows = np.arange(start, stop, dtype=np.float32)
    return {
        "global_feature": np.tile(rows[:, None], 3),
        "feature_map": np.tile(rows[:, None, None, None], (1, 2, 2, 2)),
    }


def filled(directory: Path) -> None:
    writer = FeatureWriter(directory, KEY, 10, SHAPES)
    for start in range(writer.done, 10, 4):
        writer.append(block(start, min(start + 4, 10)))
    writer.finish()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert open_features(tmp_path / "store") is None
    filled(tmp_path / "store")
    arrays = open_features(tmp_path / "store")
    assert arrays is not None
    assert arrays["global_feature"].shape == (10, 3)
    assert arrays["feature_map"].shape == (10, 2, 2, 2)
    np.testing.assert_array_equal(arrays["feature_map"][:, 0, 0, 0], np.arange(10))
    assert not (tmp_path / "store.part").exists()


@pytest.mark.parametrize("torn", ["global_feature.f16", "feature_map.f16", None])
def test_a_killed_run_goes_on_at_the_last_finished_block(tmp_path: Path, torn: str | None) -> None:
    writer = FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)
    writer.append(block(0, 4))
    writer.append(block(4, 8))
    if torn:  # the process died while it wrote the third block
        with (tmp_path / "store.part" / torn).open("ab") as stream:
            stream.write(b"\x01\x02\x03")
    assert open_features(tmp_path / "store") is None
    again = FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)
    assert again.done == 8
    again.append(block(8, 10))
    arrays = again.finish()
    np.testing.assert_array_equal(arrays["global_feature"][:, 0], np.arange(10))


@pytest.mark.parametrize("damage", ["cut", "flip", "note"])
def test_blocks_behind_a_damaged_one_are_written_again(tmp_path: Path, damage: str) -> None:
    writer = FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)
    writer.append(block(0, 4))
    writer.append(block(4, 7), {7: "cut short"})
    path = tmp_path / "store.part" / "feature_map.f16"
    content = bytearray(path.read_bytes())
    assert len(content) == 7 * 16
    if damage == "cut":
        path.write_bytes(content[: 5 * 16])  # one whole row of the second block is left
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        (tmp_path / "store.part" / "done.json").write_text('{"blocks": 7}')
    again = FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)
    assert again.done == (0 if damage == "note" else 4)
    again.append(block(again.done, 7), {7: "cut short"})
    again.append(block(8, 10))
    arrays = again.finish()
    assert arrays["feature_map"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert store_facts(tmp_path / "store").broken == {7: "cut short"}


def test_a_store_of_no_readable_image_is_one(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path / "store", {"rows": 2}, 2, SHAPES, contents=[b"a", b"b"])
    writer.append(block(0, 0), {0: "cut", 1: "empty"})
    writer.finish()
    arrays = open_features(tmp_path / "store")
    assert arrays is not None
    assert arrays["feature_map"].shape == (0, 2, 2, 2)
    assert store_facts(tmp_path / "store").contents == [b"a", b"b"]


def test_an_unfinished_store_of_another_key_starts_anew(tmp_path: Path) -> None:
    FeatureWriter(tmp_path / "store", KEY, 10, SHAPES).append(block(0, 4))
    assert FeatureWriter(tmp_path / "store", {**KEY, "backbone": "y"}, 10, SHAPES).done == 0


@pytest.mark.parametrize("damage", ["cut", "flip", "meta", "missing"])
def test_a_damaged_store_is_never_used(tmp_path: Path, damage: str) -> None:
    filled(tmp_path / "store")
    path = tmp_path / "store" / "global_feature.f16"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-2])
    elif damage == "flip":
        content[7] ^= 1
        path.write_bytes(content)
    elif damage == "meta":
        (tmp_path / "store" / "meta.json").write_text('{"arrays": {"global_feature": {}}}')
    else:
        path.unlink()
    assert open_features(tmp_path / "store") is None
    filled(tmp_path / "store")
    assert open_features(tmp_path / "store") is not None


ALTERED = {"contents": "0g", "broken": {"10": "why"}, "key": {"rows": "?"}, "runners": 3}


@pytest.mark.parametrize("name", [*ALTERED, "contents of fewer images"])
def test_a_store_whose_facts_were_altered_is_made_again(tmp_path: Path, name: str) -> None:
    def make() -> None:
        contents = [bytes([row]) for row in range(10)]
        writer = FeatureWriter(tmp_path / "store", KEY, 10, SHAPES, contents=contents)
        writer.append(block(0, 10))
        writer.finish()

    make()
    path = tmp_path / "store" / "meta.json"
    whole = json.loads(path.read_text())
    changed = {name: ALTERED[name]} if name in ALTERED else {"contents": whole["contents"][:-2]}
    path.write_text(json.dumps(whole | changed))
    assert open_features(tmp_path / "store") is None
    make()
    assert open_features(tmp_path / "store") is not None
    assert json.loads(path.read_text()) == whole


def test_bytes_are_read_once_and_again_when_a_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "store")
    hashed: list[str] = []
    original = verified.sha256_file
    monkeypatch.setattr(
        verified, "sha256_file", lambda path: hashed.append(path.name) or original(path)
    )
    for _ in range(2):
        assert open_features(tmp_path / "store") is not None
    assert hashed == []  # the writer has opened it already
    os.utime(tmp_path / "store" / "feature_map.f16", ns=(1, 1))
    for _ in range(2):
        assert open_features(tmp_path / "store") is not None
    assert sorted(hashed) == ["feature_map.f16", "global_feature.f16"]


def test_a_cache_that_cannot_be_written_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "store")
    (tmp_path / "store" / "verified.json").unlink()

    def refuse(path: Path, text: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(verified, "write_text", refuse)
    assert open_features(tmp_path / "store") is not None


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("numpy.memmap", OSError(12, "Cannot allocate memory")),
        ("udmsh_pl.features.verified.sha256_file", PermissionError(13, "Permission denied")),
        ("pathlib.Path.read_text", OSError(5, "Input/output error")),
    ],
)
def test_a_store_that_cannot_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    filled(tmp_path / "store")
    (tmp_path / "store" / "verified.json").unlink()

    def fail(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as passing:
        passing.setattr(call, fail)
        with pytest.raises(InputError, match=rf"store cannot be read .*{error.strerror}"):
            open_features(tmp_path / "store")
        with pytest.raises(InputError, match="cannot be read"):
            FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)
    arrays = open_features(tmp_path / "store")
    assert arrays is not None
    np.testing.assert_array_equal(arrays["global_feature"][:, 0], np.arange(10))


def test_too_small_a_disk_is_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match=r"--data\.cache_dir"):
        FeatureWriter(tmp_path / "store", KEY, 10, SHAPES)


def test_meta_tells_what_made_the_features(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    meta = json.loads((tmp_path / "store" / "meta.json").read_text())
    assert meta["key"] == KEY
    assert len(meta["arrays"]["feature_map"]["sha256"]) == 64


def test_another_row_for_a_broken_image_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    meta = tmp_path / "store/meta.json"
    text = meta.read_text()
    assert open_features(tmp_path / "store") is not None
    facts = json.loads(text)
    meta.write_text(json.dumps(facts | {"broken": {"3": "cut"}}))
    assert open_features(tmp_path / "store") is None
    meta.write_text(json.dumps({name: facts[name] for name in facts if name != "sha256"}))
    assert open_features(tmp_path / "store") is not None  # as 0.1.0 wrote it
