"""The life of an index: built, searched, updated; each change touches what changed and nothing
else.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.search import ImageIndex, pictures
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
    alike = 0.9 * unit @ unit[row] + 0.1 * of_codes
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
    opened.update()
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
