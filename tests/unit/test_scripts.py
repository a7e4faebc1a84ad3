"""The script that makes a data set of drawings, on pictures made here."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.images.list_file import read_list

SCRIPT = Path(__file__).parents[2] / "scripts" / "drawings.py"


def drawings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["drawings.py", str(root)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_drawings_are_listed_by_the_folders_they_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipart, stamps = tmp_path / "usr/share/openclipart/png", tmp_path / "usr/share/tuxpaint/stamps"
    for folder, count in (
        (clipart / "animals/birds", 10),
        (stamps / "animals/birds/cartoon", 10),
        (stamps / "animals/birds", 3),
        (stamps / "hobbies", 2),
        (clipart / "food", 170),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (2, 2)).save(folder / f"{number}.png")
    (clipart / "rare").mkdir()
    Image.new("RGB", (2, 2)).save(clipart / "rare/one.png")
    Image.new("1", (3000, 3000)).save(clipart / "animals/birds/huge.png")
    drawings(tmp_path, monkeypatch)
    fine = [
        read_list(tmp_path / f"fine-{split}.txt", tmp_path, None) for split in ("query", "database")
    ]
    coarse = (tmp_path / "coarse-database.txt").read_text()
    assert sum(len(one) for one in fine) == 23 + 150
    assert np.concatenate([one.labels for one in fine]).sum(0).tolist() == [
        23,
        150,
    ]  # animals/birds, food
    assert not set(fine[0].names) & set(fine[1].names)
    query, known = (
        read_list(tmp_path / f"cross-{split}.txt", tmp_path, None)
        for split in ("query", "database")
    )
    assert all("openclipart" in name for name in query.names)
    assert query.labels.sum() == len(query) == 10
    assert all("cartoon" not in name for name in known.names)
    assert known.labels.sum(0).tolist() == [3]  # and two photographs of no class
    assert len(known) == 5
    assert "huge" not in coarse
    assert "rare" not in coarse
    before = coarse
    drawings(tmp_path, monkeypatch)
    assert (tmp_path / "coarse-database.txt").read_text() == before


def test_a_package_that_was_not_unpacked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"openclipart.*does not exist; unpack"):
        drawings(tmp_path, monkeypatch)


def test_packages_without_drawings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("usr/share/openclipart/png", "usr/share/tuxpaint/stamps"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(SystemExit, match="unpack both packages whole"):
        drawings(tmp_path, monkeypatch)
