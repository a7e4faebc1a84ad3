"""Checking and exporting splits, and what is missing."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from udmsh_pl.cli import main
from udmsh_pl.commands.data import run_check, run_check_path, run_split, write_splits
from udmsh_pl.data import ListFiles
from udmsh_pl.data.fashion_mnist import load_sample
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.usable import check_splits, drop_missing, present_rows

FACTS = Protocol("toy", "small", 2, 4, 4, 2, None, "none", "https://example.org/toy", "")
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=bool)


@pytest.fixture
def splits(tmp_path: Path, place_images) -> Splits:
    names = ["d/a.jpg", "d/b c.jpg", "e.jpg", "f.jpg"]
    place_images(tmp_path, [*names, "q.jpg", "r.jpg"])
    database = ImageList(names, LABELS, tmp_path)
    return Splits(FACTS, ImageList(["q.jpg", "r.jpg"], LABELS[:2], tmp_path), database, database)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_is_well(splits: Splits, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(splits, workers) == 0
    printed = capsys.readouterr().out
    assert "all is well" in printed
    assert f"fingerprint {splits.fingerprint()}" in printed
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[2:5]}
    assert table["query"] == ["2", "2", "0", "0", "2", "1.00", "0"]
    assert table["database"] == ["4", "4", "0", "0", "2", "1.00", "1"]


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_problems(
    splits: Splits, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("e.jpg", "q.jpg"):
        (splits.database.root / name).unlink()
        (splits.database.root / name).write_bytes(b"\xff\xd8 broken")
    (splits.database.root / "f.jpg").unlink()
    assert run_check(splits, workers) == 1
    printed = capsys.readouterr().out
    assert "e.jpg: not a readable image" in printed
    assert "q.jpg: not a readable image" in printed
    assert "f.jpg: no such image" in printed
    assert printed.count("problem: ") == 3  # e and f stand in train and database, but are one
    assert "3 problems, see above" in printed
    assert "fetch that file again" in printed


@pytest.mark.parametrize("kind", ["folder", "list", "bare list", "manifest"])
def test_a_bare_folder_list_or_manifest_is_checked(
    splits: Splits, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = splits.database.root
    (root / "e.jpg").unlink()
    (root / "e.jpg").write_bytes(b"\xff\xd8 broken")
    (root / "film.mov").write_bytes(b"")
    bare = "d/a.jpg\nd/b c.jpg\ne.jpg\nf.jpg\nq.jpg\nr.jpg\n"
    content = {
        "list": bare.replace("\n", " 0 1\n"),
        "bare list": bare,
        "manifest": "path\n" + bare,
    }
    path = root
    if kind in content:
        path = root / ("m.csv" if kind == "manifest" else "l.txt")
        path.write_text(content[kind])
    arguments = ["data", "check", str(path), "--workers", "0"]
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    printed = capsys.readouterr().out
    assert f"{path}: 6 pictures, 1 of them unreadable" in printed
    assert f"problem: {root}/e.jpg: not a readable image" in printed
    assert "1 problem, see" in printed
    assert ("1 left out:\n  film.mov: a video" in printed) == (kind == "folder")
    (root / "e.jpg").unlink()
    assert run_check_path(path, 0) == (0 if kind == "folder" else 1)
    printed = capsys.readouterr().out
    assert ("all is well" in printed) == (kind == "folder")
    assert ("e.jpg: no such image; set --root" in printed) != (kind == "folder")


def test_a_folder_without_pictures_and_many_bad_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mov").write_bytes(b"")
    with pytest.raises(InputError, match=r"no images here \(1 left out: 1 a video"):
        run_check_path(tmp_path, 0)
    for number in range(60):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    (tmp_path / os.fsdecode(b"odd\xff.jpg")).write_bytes(b"")
    assert run_check_path(tmp_path, 0) == 1
    printed = capsys.readouterr().out
    assert "61 of them unreadable" in printed
    assert "... and 11 more" in printed
    assert "61 problems" in printed


def test_counts_and_labels_that_are_not_the_protocols(splits: Splits) -> None:
    other = Protocol("toy", "large", 3, 4, None, 5, None, "none", "", "")
    report = check_splits(Splits(other, splits.query, splits.train, splits.database))
    assert len(report.problems) == 2
    assert "query: 2 images where toy large has 3" in report.problems[0]
    assert "2 labels where toy large has 5" in report.problems[1]


def test_missing_images_count_towards_the_protocol_and_are_noted(splits: Splits) -> None:
    (splits.query.path(0)).unlink()
    part = drop_missing(splits, allow_missing=True)
    report = check_splits(part)
    assert report.problems == ()
    assert any("query: 1 images are missing" in note for note in report.notes)


def test_queries_that_cannot_be_answered_are_noted(splits: Splits) -> None:
    lonely = Splits(FACTS, splits.query, splits.train.select([0]), splits.database.select([0]))
    notes = " ".join(check_splits(lonely).notes)
    assert "1 queries share no label with any database image" in notes
    bare = ImageList(["q.jpg", "r.jpg"], LABELS[[0, 3]], splits.query.root)
    assert "1 queries have no label" in " ".join(
        check_splits(Splits(FACTS, bare, splits.train, splits.database)).notes
    )


def test_images_in_memory_are_checked_too() -> None:
    assert check_splits(load_sample()).problems == ()


def test_present_rows(splits: Splits) -> None:
    splits.database.path(1).unlink()
    splits.database.path(3).unlink()
    assert present_rows(splits.database).tolist() == [0, 2]
    assert present_rows(load_sample().query).tolist() == list(range(500))
    assert present_rows(ImageList(["a.jpg"], LABELS[:1], Path("/nowhere/at/all"))).tolist() == []


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0b.jpg", "d/" + "y" * 5000, "a\0/b.jpg"])
def test_names_that_no_file_can_have_are_absent(splits: Splits, name: str) -> None:
    images = ImageList([name, "f.jpg"], LABELS[:2], splits.database.root)
    assert present_rows(images).tolist() == [1]


def test_missing_images_are_refused_with_counts_per_split(splits: Splits) -> None:
    assert drop_missing(splits, allow_missing=False) is splits
    splits.database.path(1).unlink()
    message = (
        r"toy small: 1 of 4 train images, 1 of 4 database images are missing, first .*d/b c.jpg; "
        r"fetch them \(they come from https://example.org/toy\), or go on without them with "
        r"--data.allow_missing true"
    )
    with pytest.raises(InputError, match=message):
        drop_missing(splits, allow_missing=False)
    part = drop_missing(splits, allow_missing=True)
    assert part.train is part.database
    assert list(part.database.names) == ["d/a.jpg", "e.jpg", "f.jpg"]
    assert part.database.labels.tolist() == LABELS[[0, 2, 3]].tolist()
    assert drop_missing(part, allow_missing=False) is part


@pytest.mark.parametrize("missing", [{}, {"database": 3}])
@pytest.mark.parametrize("upright", [True, False])
def test_written_lists_read_back_to_the_same_split(
    splits: Splits, tmp_path: Path, missing: dict, upright: bool
) -> None:
    query, database = (replace(part, upright=upright) for part in (splits.query, splits.database))
    splits = Splits(FACTS, query, database, database, missing)
    assert run_split(splits, tmp_path / "out") == 0
    block = yaml.safe_load((tmp_path / "out/split.yaml").read_text())["data"]
    assert block["class_path"] == "udmsh_pl.data.ListFiles"
    arguments = block["init_args"]
    for name in ("root", "query", "train", "database"):
        arguments[name] = Path(arguments[name])
    back = ListFiles(**arguments).splits
    assert back.fingerprint() == splits.fingerprint()
    assert list(back.query.names) == list(splits.query.names)
    assert back.database.upright == upright


def test_a_folder_that_cannot_be_written_is_one_line(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"--write .*: cannot be written to \("):
            run_split(splits, folder)


def test_unlabelled_images_are_written_too(splits: Splits, tmp_path: Path) -> None:
    bare = ImageList(splits.database.names, np.zeros((4, 0), dtype=bool), splits.database.root)
    one = Splits(FACTS, None, bare, bare)
    paths = write_splits(one, tmp_path / "out")
    assert sorted(paths) == ["database", "train"]
    back = ListFiles(
        root=bare.root, train=paths["train"], database=paths["database"], labels=0
    ).splits
    assert back.fingerprint() == one.fingerprint()


def test_a_name_that_no_list_can_hold_leaves_nothing_written(
    splits: Splits, tmp_path: Path
) -> None:
    odd = ImageList(["new\nline.jpg"], LABELS[:1])
    with pytest.raises(InputError, match="cannot stand in a list file"):
        write_splits(Splits(FACTS, splits.query, splits.train, odd), tmp_path / "out")
    assert not (tmp_path / "out").exists()
