"""The life of an index: built, searched, updated; each change touches what changed and nothing
else.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.commands import index as command
from udmsh_pl.errors import InputError
from udmsh_pl.search import ImageIndex, pictures
from udmsh_pl.search.segment import FILES, FileFacts, unchanged
from udmsh_pl.search.store import MANIFEST

from .conftest import draw


def snapshot(index: ImageIndex) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {
        name: (
            index.rows.codes[row].tobytes(),
            index.rows.features[row].tobytes(),
            index.thumbnail(row),
        )
        for row, name in enumerate(index.rows.names)
    }


@pytest.fixture
def encoded_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that are decoded from here on."""
    seen: list[str] = []
    original = pictures.decode

    def recording(content: bytes, name: str, side: int) -> pictures.Picture:
        seen.append(Path(name).name)
        return original(content, name, side)

    monkeypatch.setattr(pictures, "decode", recording)
    return seen


def test_each_picture_finds_itself_first_and_a_small_copy_finds_its_original(built: Path) -> None:
    found = ImageIndex.open(built / "index")
    assert len(found) == 12
    for path in (built / "pictures").rglob("*.png"):
        match = found.search(path, k=3)[0]
        assert (match.path, match.distance) == (path, 0)
        assert match.similarity == pytest.approx(1, abs=1e-6)
        with Image.open(path) as image:
            small = image.resize((50, 50))
        assert found.search(small, k=1)[0].path == path
    assert found.similar(5, k=2)[0].row == 5


def test_similarity_is_of_features_and_codes_and_orders_the_shortlist(built: Path) -> None:
    found = ImageIndex.open(built / "index")
    matches = found.search(built / "pictures/03.png", k=12)
    features = found.rows.features.astype(float)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    bits = np.unpackbits(found.rows.codes, axis=1)
    row = list(found.rows.names).index("03.png")
    of_codes = 1 - 2 * (bits != bits[row]).mean(1)
    alike = 0.8 * unit @ unit[row] + 0.2 * of_codes
    assert [one.similarity for one in matches] == sorted(alike.round(4), reverse=True)
    for one in matches:
        assert one.distance == (bits[one.row] != bits[row]).sum()
    by_code = found.search(built / "pictures/03.png", k=12, rerank=0)
    assert [one.distance for one in by_code] == sorted(one.distance for one in matches)


def test_an_update_touches_what_changed(place: Path, encoded_names: list[str]) -> None:
    pictures = place / "pictures"
    before = ImageIndex.open(place / "index")
    old = snapshot(before)
    (pictures / "02.png").unlink()
    draw(pictures / "new.png", 50)
    draw(pictures / "03.png", 51)
    (pictures / "04.png").rename(pictures / "moved.png")
    os.utime(pictures / "05.png", ns=(1, 1))
    opened = ImageIndex.open(place / "index")
    report = opened.update()
    assert sorted(encoded_names) == ["03.png", "broken.jpg", "new.png"]
    assert (report.added, report.changed, report.deleted, report.reused) == (2, 1, 2, 1)
    assert report.unchanged == 9
    assert [name for name, _ in report.broken] == ["broken.jpg"]
    new = snapshot(ImageIndex.open(place / "index"))
    assert set(new) == set(old) - {"02.png", "04.png"} | {"new.png", "moved.png"}
    assert new["moved.png"] == old["04.png"]
    assert new["03.png"] != old["03.png"]
    same = set(new) - {"new.png", "moved.png", "03.png"}
    assert all(new[name] == old[name] for name in same)
    # what an update gives is what indexing anew with this encoder gives
    anew = ImageIndex.build(pictures, opened.encoder)
    assert snapshot(anew) == new
    again = opened.update()
    assert (again.added, again.changed, again.deleted, again.unchanged) == (0, 0, 0, 12)


def test_an_update_without_changes_writes_nothing(place: Path) -> None:
    (place / "pictures/broken.jpg").unlink()
    before = (place / "index" / MANIFEST).read_bytes()
    ImageIndex.open(place / "index").update()
    assert (place / "index" / MANIFEST).read_bytes() == before


def test_a_picture_that_breaks_leaves_the_index_and_is_told(place: Path) -> None:
    (place / "pictures/06.png").write_bytes((place / "pictures/06.png").read_bytes()[:500])
    opened = ImageIndex.open(place / "index")
    report = opened.update()
    assert sorted(name for name, _ in report.broken) == ["06.png", "broken.jpg"]
    assert report.deleted == 1
    assert len(opened) == 11


def test_pictures_from_elsewhere_are_added_kept_and_removed(place: Path, tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside.png", 77)
    opened = ImageIndex.open(place / "index")
    assert opened.add([outside]).added == 1
    assert opened.add([outside]).unchanged == 1
    assert "outside" not in "".join(opened.update(allow_deletions=True).lines)
    assert opened.search(outside, k=1)[0].path == outside
    assert opened.remove([outside, place / "pictures/00.png", "no such"]) == 2
    assert len(ImageIndex.open(place / "index")) == 11


def test_many_small_updates_are_merged(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udmsh_pl.search.store.MOST_SEGMENTS", 3)
    opened = ImageIndex.open(place / "index")
    for number in range(6):
        draw(place / f"pictures/more{number}.png", 90 + number)
        opened.update()
        assert len(opened.manifest.segments) <= 4
    assert len(opened) == 18
    assert snapshot(opened) == snapshot(ImageIndex.build(place / "pictures", opened.encoder))


def test_save_copies_the_index(place: Path, tmp_path: Path) -> None:
    saved = ImageIndex.open(place / "index").save(tmp_path / "saved")
    shutil.rmtree(place / "index")
    assert len(saved.search(place / "pictures/01.png", k=4)) == 4
    with pytest.raises(InputError, match="is an index already"):
        saved.save(tmp_path / "saved")


def test_another_folder_is_refused_unless_the_pictures_moved(place: Path, tmp_path: Path) -> None:
    opened = ImageIndex.open(place / "index")
    shutil.move(place / "pictures", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--moved"):
        opened.update(tmp_path / "elsewhere")
    assert opened.update(tmp_path / "elsewhere", moved=True).unchanged == 12
    assert (
        opened.search(tmp_path / "elsewhere/01.png", k=1)[0].path == tmp_path / "elsewhere/01.png"
    )


def test_what_cannot_be_indexed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ImageIndex.build(tmp_path / "none", out=tmp_path / "index")
    with pytest.raises(InputError, match="no pictures here"):
        ImageIndex.build(tmp_path, out=tmp_path / "index")
    (tmp_path / "one.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"one\.jpg"):
        ImageIndex.build(tmp_path, out=tmp_path / "index")
    assert not (tmp_path / "index" / MANIFEST).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else"):
        ImageIndex.build(tmp_path, out=tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_kinds_of_pictures_give_one_code(built: Path) -> None:
    torch = pytest.importorskip("torch")
    path = built / "pictures/07.png"
    with Image.open(path) as opened:
        array = np.asarray(opened.convert("RGB"))
    kinds = [
        path,
        str(path),
        Image.fromarray(array),
        array,
        torch.from_numpy(array.transpose(2, 0, 1).copy()),
    ]
    codes = ImageIndex.open(built / "index").encoder.encode(kinds)
    assert codes.names[:3] == [str(path), str(path), "#2"]
    assert len(np.unique(codes.codes, axis=0)) == len(np.unique(codes.features, axis=0)) == 1
    with pytest.raises(InputError, match=r"#0: ndarray float64 \[3, 3\] is no picture"):
        ImageIndex.open(built / "index").encoder.encode([np.zeros((3, 3))])


def test_the_modules_that_a_search_loads_know_no_torch() -> None:
    code = "import sys, udmsh_pl.commands.search as s; assert 'torch' not in sys.modules, s"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_reached_is_kept(place: Path) -> None:
    pictures = place / "pictures"
    (pictures / "broken.jpg").unlink()
    opened = ImageIndex.open(place / "index")
    (pictures / "link.png").symlink_to("01.png")
    opened.update()
    (pictures / "link.png").unlink()
    (pictures / "link.png").symlink_to("../away/01.png")  # its disk is not mounted
    report = opened.update()
    assert (report.unreachable, report.deleted, len(opened)) == (1, 0, 13)
    assert "1 unreachable, kept" in str(report)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_what_is_closed_is_kept(place: Path) -> None:
    pictures = place / "pictures"
    opened = ImageIndex.open(place / "index")
    (pictures / "below").chmod(0)
    (pictures / "02.png").chmod(0)
    report = opened.update()
    (pictures / "below").chmod(0o755)
    (pictures / "02.png").chmod(0o644)
    assert (report.unreachable, report.deleted, len(opened)) == (2, 0, 12)


def test_a_file_that_fails_to_open_for_a_moment_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageIndex.open(place / "index")
    os.utime(place / "pictures/02.png", ns=(5, 5))
    original = Path.open

    def closed(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "02.png":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", closed)
    report = opened.update()
    monkeypatch.undo()
    assert (report.unreachable, report.deleted, len(opened)) == (1, 0, 12)
    assert opened.update().unchanged == 12


def test_most_of_an_index_is_not_dropped_without_a_word(place: Path) -> None:
    pictures = place / "pictures"
    opened = ImageIndex.open(place / "index")
    for path in pictures.glob("0*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"10 of 12 pictures are gone .*--allow-deletions"):
        opened.update()
    assert len(ImageIndex.open(place / "index")) == 12
    assert opened.update(allow_deletions=True).deleted == 10
    shutil.rmtree(pictures)
    pictures.mkdir()
    assert opened.update().deleted == 2  # few are believed


def test_pictures_that_are_gone_from_a_folder_that_a_rule_leaves_out_are_counted_as_gone(
    place: Path,
) -> None:
    pictures = place / "pictures"
    for number, folder in ((5, "hidden later"), (6, "linked later")):
        (pictures / folder).mkdir()
        for path in [*pictures.glob("*.png")][:number]:
            path.rename(pictures / folder / path.name)
    opened = ImageIndex.open(place / "index")
    opened.update()
    for path in (pictures / "hidden later").iterdir():
        path.unlink()
    (pictures / "hidden later/.nomedia").touch()
    shutil.rmtree(pictures / "linked later")
    (pictures / "linked later").symlink_to(place)
    with pytest.raises(InputError, match=r"11 of 12 pictures are gone .*--allow-deletions"):
        opened.update()


def test_a_renamed_folder_is_no_deletion(place: Path, encoded_names: list[str]) -> None:
    pictures = place / "pictures"
    (pictures / "2026").mkdir()
    for path in [*pictures.glob("*.png")]:
        path.rename(pictures / "2026" / path.name)
    report = ImageIndex.open(place / "index").update()
    assert (report.deleted, report.added, report.reused) == (11, 11, 11)
    assert encoded_names == ["broken.jpg"]


def test_names_that_are_swapped_are_noticed(place: Path) -> None:
    pictures = place / "pictures"
    for number, name in enumerate(("a.bmp", "b.bmp")):
        draw(pictures / name, 60 + number)
        os.utime(pictures / name, ns=(7, 7))
    opened = ImageIndex.open(place / "index")
    opened.update()
    assert (pictures / "a.bmp").stat().st_size == (pictures / "b.bmp").stat().st_size
    (pictures / "a.bmp").rename(pictures / "c")
    (pictures / "b.bmp").rename(pictures / "a.bmp")
    (pictures / "c").rename(pictures / "b.bmp")
    report = opened.update()
    assert (report.changed, report.reused, report.unchanged) == (2, 2, 12)
    assert opened.search(pictures / "a.bmp", k=1)[0].path == pictures / "a.bmp"


def test_verify_reads_every_file_and_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "pictures/broken.jpg").unlink()
    opened = ImageIndex.open(place / "index")
    before = (place / "index" / MANIFEST).read_bytes()
    read: list[str] = []
    original = pictures.read_bytes
    monkeypatch.setattr(
        pictures, "read_bytes", lambda path: (read.append(path.name), original(path))[1]
    )
    opened.update()
    assert read == []
    assert opened.update(verify=True).unchanged == 12
    assert len(read) == 12
    assert (place / "index" / MANIFEST).read_bytes() == before


def test_no_branch_replaces_the_index_of_another_folder(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    draw(other / "one.png", 70)
    model, before = place / "index", (place / "index" / MANIFEST).read_bytes()

    def run(*more: str) -> None:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        command.run(parser.parse_args([str(other), "--out", str(place / "index"), *more]))

    for more in ([], ["--model", str(model)], ["--retrain"], ["--verify"]):
        with pytest.raises(InputError, match=r"is the index of .*--moved .*--replace"):
            run(*more)
    encoder = ImageIndex.open(model).encoder
    with pytest.raises(InputError, match="--replace"):
        ImageIndex.build(other, encoder, place / "index")
    assert (place / "index" / MANIFEST).read_bytes() == before
    encoder.save(tmp_path / "encoder")
    run("--model", str(tmp_path / "encoder"), "--replace")
    assert list(ImageIndex.open(place / "index").rows.names) == ["one.png"]


@pytest.mark.parametrize("held", [True, False])
def test_what_shows_that_a_file_has_changed(held: bool) -> None:
    facts = [FileFacts(1, 2, 3, 4), FileFacts(9, 2, 3, 4), FileFacts(1, 9, 3, 4)]
    facts += [FileFacts(1, 2, 9, 4), FileFacts(1, 2, 3, 9)]
    rows = np.zeros(5, FILES)
    for name in FileFacts._fields[: 4 if held else 2]:  # format 1 has no inode and time of change
        rows[name] = getattr(facts[0], name)
    assert unchanged(facts, rows).tolist() == [True, False, False, not held, not held]


def test_times_that_no_row_can_hold(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        st_size, st_ino = 3, 2**64 + 5
        st_mtime_ns = st_ctime_ns = 15 * 10**18

    facts = FileFacts.of(Late())  # type: ignore[arg-type]
    row = np.zeros(1, FILES)
    for name in FileFacts._fields:
        row[name] = getattr(facts, name)
    assert unchanged([facts], row).all()
    assert facts.inode == 5


def test_one_path_is_one_picture_and_streams_are_searched(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageIndex.open(place / "index")
    outside = draw(tmp_path / "outside.png", 78)
    assert opened.add(str(outside)).added == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    with outside.open("rb") as stream:
        kinds = (stream, io.BytesIO(outside.read_bytes()), outside.read_bytes(), "~/outside.png")
        for kind in kinds:
            assert opened.search(kind, k=1)[0].path == outside
    outside.unlink()
    assert "--allow-deletions" in " ".join(opened.update().lines)
    assert len(opened) == 13
    assert opened.update(allow_deletions=True).deleted == 1
    assert opened.remove(place / "pictures/00.png") == 1
    for row in (-1, 11):
        with pytest.raises(InputError, match=f"row is {row}"):
            opened.similar(row)


def test_an_index_of_version_0_2_opens_and_is_updated(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "fixtures/v0_2/index"
    shutil.copytree(fixture, tmp_path / "index")
    opened = ImageIndex.open(tmp_path / "index")
    assert len(opened) > 0
    assert opened.rows.files.dtype == FILES
    assert not opened.rows.files["inode"].any()
    name = str(opened.rows.names[0])
    opened.remove(opened.root / name)
    again = ImageIndex.open(tmp_path / "index")
    assert list(again.rows.names) == list(opened.rows.names)
    assert name not in again.rows.names


def test_patterns_are_kept_and_can_be_forgotten(place: Path) -> None:
    pictures = place / "pictures"
    opened = ImageIndex.open(place / "index")
    report = opened.update(exclude=["below", "0[0-8].png"])
    assert (report.deleted, len(opened)) == (10, 2)  # more than half, but they are not gone
    assert report.skipped["below"] == "excluded by below"
    draw(pictures / "below/new.png", 80)
    report = ImageIndex.open(place / "index").update()
    assert (report.added, report.deleted) == (0, 0)
    assert ImageIndex.open(place / "index").update(exclude=[]).added == 11


def test_names_in_another_unicode_form_are_one_picture(place: Path) -> None:
    disk, typed = place / "pictures/e\u0301.png", place / "pictures/\u00e9.png"
    draw(disk, 81)
    opened = ImageIndex.open(place / "index")
    assert opened.add(typed).added == 1
    assert opened.add(typed).unchanged == 1
    assert opened.search(typed, k=1)[0].path == disk
    disk.unlink()
    assert opened.remove(typed) == 1


def test_another_code_length_is_refused(place: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = [str(place / "pictures"), "--out", str(place / "index"), "--bits", "128"]
    with pytest.raises(InputError, match="has codes of 64 bits; give --retrain"):
        command.run(parser.parse_args(words))
    with pytest.raises(InputError, match="gives codes of 64 bits; leave --bits 128 out"):
        command.run(parser.parse_args([*words, "--model", str(place / "index")]))


def test_a_format_that_is_no_longer_read_loses_no_row(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageIndex.open(place / "index")
    for module in ("images.walk", "search.index"):
        monkeypatch.setattr(f"udmsh_pl.{module}.no_picture", lambda ending: "needs the extra")
    report = opened.update()
    assert (report.unreachable, report.deleted, len(opened)) == (12, 0, 12)
    (place / "pictures/02.png").unlink()
    assert (opened.update().deleted, len(opened)) == (1, 11)
