"""The index on disk: damage is noticed, one writer at a time, nothing is left behind."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_json
from udmsh_pl.search import ImageIndex
from udmsh_pl.search.segment import FILES, Rows, write_segment
from udmsh_pl.search.store import (
    LOCK,
    MANIFEST,
    OWNER,
    SEGMENTS,
    Manifest,
    open_rows,
    read_manifest,
    without,
    write_manifest,
    writing,
)

from .conftest import draw


def rows(names: list[str], first: int = 0) -> Rows:
    files = np.zeros(len(names), FILES)
    codes = np.arange(first, first + len(names), dtype=np.uint8)[:, None]
    return Rows(names, files, codes, np.zeros((len(names), 2), np.int8), [b""] * len(names))


def make(path: Path, *parts: list[str]) -> Manifest:
    with writing(path):
        start, made = 0, []
        for number, names in enumerate(parts):
            made.append(write_segment(path / SEGMENTS, f"{number}", rows(names, start)))
            start += len(names)
        write_manifest(path, Manifest(1, "/pictures", "encoder-1", 8, 2, tuple(made)))
    return read_manifest(path)


def test_rows_are_taken_out_by_their_place_among_the_living(tmp_path: Path) -> None:
    manifest = make(tmp_path / "index", ["a", "b\nc", "d"], ["e", "\udce9"], ["f"])
    living = ["a", "b\nc", "d", "e", "\udce9", "f"]
    generator = random.Random(0)
    while living:
        gone = sorted(generator.sample(range(len(living)), generator.randint(1, len(living))))
        manifest = without(manifest, np.asarray(gone))
        living = [name for row, name in enumerate(living) if row not in gone]
        write_manifest(tmp_path / "index", manifest)
        _, found = open_rows(tmp_path / "index")
        assert list(found.names) == living
        assert [len(found.thumbnails), len(found.codes)] == [len(living)] * 2
    assert manifest.segments == ()


def read_all(index: Path) -> None:
    opened = ImageIndex.open(index)
    for row in range(len(opened)):
        opened.thumbnail(row)
    opened.encoder.save(index.with_name("saved"))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_every_damaged_file_is_noticed(place: Path, damage: str) -> None:
    index = place / "index"
    files = [path for path in index.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) >= 9
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        other = content[:middle] if damage == "cut" else (
            content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        )  # fmt: skip
        path.write_bytes(other)
        with pytest.raises(InputError) as told:
            read_all(index)
        assert "\n" not in str(told.value)
        assert "anew" in str(told.value)
        path.write_bytes(content)
    (index / MANIFEST).parent.joinpath(SEGMENTS).rename(place / "gone")
    with pytest.raises(InputError, match="is missing"):
        ImageIndex.open(index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"format": 1}',
        b'{"format": 99}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"format": 1, "sha256": "0"}).encode(),
    ],
)
def test_a_foreign_manifest_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError) as told:
        ImageIndex.open(tmp_path)
    assert "\n" not in str(told.value)


def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    make(tmp_path / "index", ["a"])
    for change in (
        {"encoder": "../../etc"},
        {"encoder": ".hidden"},
        {"segments": [{"name": "../x", "rows": 0, "files": {}, "removed": []}]},
    ):
        plain = json.loads((tmp_path / "index" / MANIFEST).read_text()) | change
        del plain["sha256"]
        (tmp_path / "index" / MANIFEST).write_text(
            json.dumps(plain | {"sha256": sha256_json(plain)})
        )
        with pytest.raises(InputError, match="altered"):
            read_manifest(tmp_path / "index")


def test_a_folder_that_is_no_index_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is no index; `udmsh index"):
            ImageIndex.open(path)


def test_a_second_writer_is_refused_and_a_reader_is_not(place: Path) -> None:
    with FileLock(place / "index" / LOCK):
        opened = ImageIndex.open(place / "index")
        child = f"""
from udmsh_pl.search import ImageIndex
from udmsh_pl.errors import InputError
try:
    ImageIndex.open({str(place / "index")!r}).update()
except InputError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    assert "another process is writing" in done.stdout
    assert len(opened) == 12


def test_what_a_killed_writer_left_is_swept(place: Path) -> None:
    index = place / "index"
    (index / SEGMENTS / "000099-0000").mkdir()
    (index / SEGMENTS / ".000099-0001.part").mkdir()
    (index / "encoder-000099").mkdir()
    (index / ".index.123.part.json").write_text("{")
    draw(place / "pictures/new.png", 60)
    ImageIndex.open(index).update()
    left = [path.name for path in index.rglob("*") if "99" in path.name or "part" in path.name]
    assert not left


def test_a_version_that_a_reader_holds_stays_readable(place: Path) -> None:
    held = ImageIndex.open(place / "index")
    for path in sorted((place / "pictures").glob("*.png"))[:8]:
        path.unlink()
    ImageIndex.open(place / "index").update(allow_deletions=True)
    assert len(held) == 12
    assert all(held.thumbnail(row).startswith(b"\xff\xd8") for row in range(12))


UPDATE = """
import os, signal, sys
calls, original = 0, {name}
def killing(*arguments, **options):
    global calls
    calls += 1
    if calls == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{name} = killing
from udmsh_pl.search import ImageIndex
ImageIndex.open({index!r}).update()
"""


@pytest.mark.parametrize(
    ("name", "number"),
    [("os.fsync", 1), ("os.fsync", 4), ("os.fsync", 7), ("os.replace", 1), ("os.rename", 1)],
)
def test_a_kill_leaves_the_old_index_or_the_new_one(place: Path, name: str, number: int) -> None:
    before = sorted(ImageIndex.open(place / "index").rows.names)
    (place / "pictures/00.png").unlink()
    draw(place / "pictures/new.png", 61)
    after = sorted({*before, "new.png"} - {"00.png"})
    code = UPDATE.format(name=name, number=number, index=str(place / "index"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    found = sorted(ImageIndex.open(place / "index").rows.names)
    if done.returncode == -signal.SIGKILL:
        assert found == before  # the manifest is renamed last of all
    assert found in (before, after)
    opened = ImageIndex.open(place / "index")
    opened.update()
    assert sorted(opened.rows.names) == after


@pytest.mark.slow
def test_kills_at_random_moments(place: Path) -> None:
    generator = random.Random(0)
    index, pictures = place / "index", place / "pictures"
    code = (
        "from udmsh_pl.search import ImageIndex; "
        f"ImageIndex.open({str(index)!r}).update(allow_deletions=True)"
    )
    killed = 0
    for number in range(30):
        before = sorted(ImageIndex.open(index).rows.names)
        draw(pictures / f"late{number}.png", 200 + number)
        victim = pictures / generator.choice([name for name in before if "below" not in name])
        victim.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
        time.sleep(generator.random() * 3)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        found = sorted(ImageIndex.open(index).rows.names)
        there = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
        assert found in (before, there)
    assert killed
    opened = ImageIndex.open(index)
    opened.update(allow_deletions=True)
    assert sorted(opened.rows.names) == there


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_share_without_locks_has_one_writer_too(
    place: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refused)
    index = place / "index"
    with writing(index):
        owner = json.loads((index / OWNER).read_text())
        assert owner["process"] == os.getpid()
        with pytest.raises(InputError, match=f"process {os.getpid()}.*delete .*{OWNER}"), \
                writing(index):  # fmt: skip
            pass
    assert not (index / OWNER).exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (index / OWNER).write_text(json.dumps(owner | {"process": ended.pid}))
    with writing(index):  # whoever wrote that has ended
        pass
    (index / OWNER).write_text("{")
    with pytest.raises(InputError, match="owner unknown"), writing(index):
        pass


def test_an_index_is_known_by_its_manifest(place: Path) -> None:
    (place / "index" / LOCK).unlink()
    ImageIndex.open(place / "index").update()
    assert len(ImageIndex.open(place / "index")) == 12
