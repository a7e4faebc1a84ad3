"""Collections larger than memory, and of a million pictures, which these tests take for few."""

from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.cli import main
from udmsh_pl.errors import InputError
from udmsh_pl.search import ImageIndex, searching, store
from udmsh_pl.search.segment import ConcatenatedArray

from .conftest import draw


def found(index: ImageIndex, row: int) -> list[tuple[str, int, float]]:
    return [(one.path.name, one.distance, one.similarity) for one in index.similar(row, 12)]


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 0)


def test_mapped_rows_are_the_rows_in_memory(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several segments, one of which has lost a row."""
    index = ImageIndex.open(place / "index")
    for number in range(3):
        draw(place / f"pictures/new{number}.png", 50 + number)
        index.update()
    index.remove([place / "pictures/04.png", place / "pictures/new1.png"])
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    large = ImageIndex.open(place / "index")
    assert isinstance(large.rows.features, ConcatenatedArray)
    assert list(large.rows.names) == list(index.rows.names)
    assert [large.rows.names[row] for row in range(len(large))] == list(index.rows.names)
    for name in ("files", "codes", "features"):
        one, other = getattr(large.rows, name), getattr(index.rows, name)
        np.testing.assert_array_equal(np.asarray(one), other)
        for item in (3, -1 + len(index), slice(2, 9, 3), np.array([7, 0, 7, 12])):
            np.testing.assert_array_equal(one[item], other[item])
    np.testing.assert_array_equal(large.rows.files["digest"], index.rows.files["digest"])
    for row in range(len(index)):
        assert large.thumbnail(row) == index.thumbnail(row)
        assert found(large, row) == found(index, row)
    assert large.duplicates() == index.duplicates()
    assert len(ImageIndex.open(large.save(tmp_path / "saved").path)) == len(index)


def test_a_mapped_index_is_kept_up_to_date(place: Path, mapped: None) -> None:
    index = ImageIndex.open(place / "index")
    (place / "pictures/03.png").unlink()
    draw(place / "pictures/new.png", 77)
    report = index.update()
    assert (report.added, report.deleted, report.unchanged) == (1, 1, 11)
    assert "03.png" not in list(index.rows.names)
    assert index.search(place / "pictures/new.png", k=1)[0].path.name == "new.png"


def test_damage_of_mapped_files_is_found_by_a_check(place: Path, mapped: None) -> None:
    index = ImageIndex.open(place / "index")
    store.check(index.path, index.manifest)
    path = next((place / "index").rglob("features.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"features\.npy was cut or altered"):
        store.check(index.path, ImageIndex.open(place / "index").manifest)


def test_chains_of_chains() -> None:
    first = ConcatenatedArray([np.arange(5), np.arange(10, 13)], [np.array([0, 4]), None])
    both = ConcatenatedArray([first, np.array([7, 8])])
    assert np.asarray(both).tolist() == [0, 4, 10, 11, 12, 7, 8]
    assert both[5] == 7
    assert both[[6, 1]].tolist() == [8, 4]
    assert len(both) == 7


def test_many_pictures_are_searched_through_lists(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = ImageIndex.open(place / "index")
    answers = [found(exact, row) for row in range(12)]
    monkeypatch.setattr(searching, "EXACT_BELOW", 5)
    arguments = ["index", str(place / "pictures"), "--out", str(place / "index"), "--recall"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "0.999"])
    assert "a search looks through 12 inverted lists" in capsys.readouterr().out
    index = ImageIndex.open(place / "index")
    assert index.manifest.lists == f"lists-{index.manifest.version:06d}"
    assert [found(index, row) for row in range(12)] == answers  # it asks for all of them
    index.remove([place / "pictures/04.png"])
    assert "04.png" not in [name for name, _, _ in found(index, 0)]
    assert [path.name for path in (place / "index").glob("*lists-*")] == [index.manifest.lists]
    copy = index.save(place / "copy.index")
    assert found(copy, 0) == found(index, 0)
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "1"])
    assert "a search looks through all" in capsys.readouterr().out
    assert not list((place / "index").glob("*lists-*"))
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "2"])
    assert "--recall is 2.0" in capsys.readouterr().err


@pytest.mark.parametrize("room", [0, 1 << 28])
def test_a_reader_goes_on_while_a_writer_replaces_its_files(
    place: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", room)
    monkeypatch.setattr(searching, "EXACT_BELOW", 5)
    index = ImageIndex.open(place / "index")
    index.update(recall=0.999)
    reader, answers = ImageIndex.open(place / "index"), found(index, 2)
    index.remove([place / f"pictures/{number:02d}.png" for number in range(5)])  # merges the rest
    assert index.manifest.lists != reader.manifest.lists
    assert index.manifest.segments[0].name != reader.manifest.segments[0].name
    assert found(reader, 2) == answers
    assert next(iter(reader.rows.names)) == "00.png"
    for row in range(12):
        reader.thumbnail(row)


def test_verify_checks_the_files_of_the_index_too(place: Path, mapped: None) -> None:
    index = ImageIndex.open(place / "index")
    assert index.update(verify=True).unchanged == 12
    path = next((place / "index").rglob("codes.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"codes\.npy was cut or altered"):
        ImageIndex.open(place / "index").update(verify=True)
