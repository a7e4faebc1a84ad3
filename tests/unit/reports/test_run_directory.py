"""A run directory: cells own what they were given, and no stale or altered one is believed."""

import hashlib
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.reports.environment import package_commit
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Cell, Result, read_results, write_results
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes

CELL = Cell("itq", 8, 0)
STAMP = {"settings": {"ks": (10, None)}, "split": "a" * 64}


def row(cell: Cell = CELL, split: str = "a" * 64) -> Result:
    return Result(
        "toy", "p", split, *cell[:1], "backbone", *cell[1:], "map", "10", "expected", "retrieved",
        0.5, 0.4, 0.6, 1.0, 0.1, 1.5, "0",
    )  # fmt: skip


def scored() -> tuple[dict[str, np.ndarray], RetrievalReport]:
    generator = np.random.default_rng(0)
    codes = [generator.integers(0, 256, (n, 1), dtype=np.uint8) for n in (5, 30)]
    labels = [generator.integers(0, 2, (n, 3)).astype(bool) for n in (5, 30)]
    report = evaluate_codes(*codes, *labels, 8, ks=(10, None))
    return {"query_codes": codes[0], "database_codes": codes[1]}, report


def finished(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.save_scored(CELL, *scored())
    run.keep(CELL, STAMP, [row()])
    return run


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    run, (codes, report) = finished(tmp_path), scored()
    assert run.finished(CELL, STAMP)
    assert run.results() == [row()]
    np.testing.assert_array_equal(run.codes(CELL)["query_codes"], codes["query_codes"])
    scores = run.scores(CELL)
    for k in (10, None):
        np.testing.assert_array_equal(scores.average_precision[k], report.average_precision[k])
    np.testing.assert_array_equal(scores.precision, report.precision_recall_curve()[0])


def test_other_settings_and_lost_files_make_it_unfinished(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert not run.finished(CELL, STAMP | {"split": "b" * 64})
    assert not run.finished(Cell("itq", 8, 1), STAMP)
    for damage in ("", "{", json.dumps({"settings": {}}), "\udcff"):
        (run.folder(CELL) / "done.json").write_text(damage, errors="surrogateescape")
        assert not run.finished(CELL, STAMP)
    run.keep(CELL, STAMP, [row()])
    for name in ("codes.npz", "scores.npz"):
        kept = (run.folder(CELL) / name).read_bytes()
        (run.folder(CELL) / name).unlink()
        assert not run.finished(CELL, STAMP)
        (run.folder(CELL) / name).write_bytes(kept[:100] + b"!" + kept[101:])
        assert not run.finished(CELL, STAMP)
        (run.folder(CELL) / name).write_bytes(kept)
    assert run.finished(CELL, STAMP)
    rows = (run.folder(CELL) / "rows.csv").read_text()
    (run.folder(CELL) / "rows.csv").write_text(rows.replace("0.5,", "0.7,"))
    assert not run.finished(CELL, STAMP)
    (run.folder(CELL) / "rows.csv").write_text(rows)
    assert run.finished(CELL, STAMP)
    (run.folder(CELL) / "rows.csv").unlink()
    assert not run.finished(CELL, STAMP)


def test_a_cell_names_the_commit_of_its_code_which_makes_no_other_commit_run_it_again(
    tmp_path: Path,
) -> None:
    run = finished(tmp_path)
    mark = run.folder(CELL) / "done.json"
    stamp = json.loads(mark.read_text())
    assert stamp["commit"] == package_commit()
    mark.write_text(json.dumps(stamp | {"commit": "c" * 40}))
    assert run.finished(CELL, STAMP)


def test_files_that_did_not_change_are_not_read(tmp_path: Path) -> None:
    run = finished(tmp_path)
    codes = run.folder(CELL) / "codes.npz"
    times = codes.stat().st_atime_ns, codes.stat().st_mtime_ns
    codes.write_bytes(b"!" * codes.stat().st_size)
    os.utime(codes, ns=times)  # as nobody does by mistake
    assert run.finished(CELL, STAMP)
    os.utime(codes, ns=(times[0], times[1] + 1))
    assert not run.finished(CELL, STAMP)


def test_the_table_is_derived_in_the_order_of_the_plan(tmp_path: Path) -> None:
    run, other = finished(tmp_path), Cell("lsh", 8, 0)
    run.keep(other, STAMP, [row(other)])
    run.results_path.write_text("altered")
    assert run.results() == [row(), row(other)]
    assert run.write_results([other]) == [row(other), row()]
    assert read_results(run.results_path) == run.table() == [row(other), row()]
    run.results_path.unlink()
    assert run.table() == [row(), row(other)]


def test_rows_of_another_split_are_left_out(tmp_path: Path) -> None:
    run = finished(tmp_path)
    other = Cell("lsh", 8, 0)
    run.keep(other, STAMP, [row(other, "b" * 64)])
    (tmp_path / "environment.json").write_text(json.dumps({"split_sha256": "a" * 64}))
    assert run.results() == [row()]
    assert run.left_out() == ["lsh-8-0"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("itq,", "itQ,"), ("0.5,", "0.7,"), (",8,0,", ",8,1,"), ("expected", "xpected")],
)
def test_altered_rows_are_left_out(tmp_path: Path, old: str, new: str) -> None:
    run, other = finished(tmp_path), Cell("lsh", 8, 0)
    run.keep(other, STAMP, [row(other)])
    rows = run.folder(CELL) / "rows.csv"
    rows.write_text(rows.read_text().replace(old, new, 1))
    assert run.results() == [row(other)]
    assert run.left_out() == ["itq-8-0"]


def test_a_folder_under_another_name_is_left_out(tmp_path: Path) -> None:
    run = finished(tmp_path)
    shutil.copytree(run.folder(CELL), run.folder(Cell("itq", 8, 1)))
    assert run.results() == [row()]
    assert run.left_out() == ["itq-8-1"]


def by_0_2(run: RunDirectory, rows: list[Result], checksums: bool = True) -> None:
    """Leave the cell as 0.2 did: rows in results.csv alone, their digest in the mark."""
    write_results(run.results_path, rows)
    mark = json.loads((run.folder(CELL) / "done.json").read_text())
    kept = mark.pop("kept")
    del kept["rows.csv"]
    kept["rows"] = hashlib.sha256(repr([row()]).encode()).hexdigest()
    text = json.dumps(mark | {"kept": kept} if checksums else mark)
    (run.folder(CELL) / "done.json").write_text(text)
    (run.folder(CELL) / "rows.csv").unlink()


@pytest.mark.parametrize("checksums", [True, False])
def test_cells_of_0_2_are_taken_over_once(tmp_path: Path, checksums: bool) -> None:
    run = finished(tmp_path)
    by_0_2(run, [row(), row(Cell("stray", 8, 0))], checksums)
    assert run.table() == read_results(run.results_path)
    assert not run.finished(CELL, STAMP)
    run.take_over()
    assert run.finished(CELL, STAMP)
    assert run.results() == [row()]
    assert not run.folder(Cell("stray", 8, 0)).exists()
    run.results_path.write_text("not read again")
    run.take_over()
    assert run.results() == [row()]


def test_altered_rows_of_0_2_are_not_taken_over(tmp_path: Path) -> None:
    run = finished(tmp_path)
    by_0_2(run, [replace(row(), value=0.55)])
    run.take_over()
    assert not run.finished(CELL, STAMP)
    assert run.left_out() == ["itq-8-0"]


def _keep_many(path: Path, method: str) -> None:
    run = RunDirectory(path)
    for seed in range(20):
        cell = Cell(method, 8, seed)
        run.keep(cell, STAMP, [replace(row(), method=method, seed=seed)])
        assert cell in {result.cell for result in run.write_results()}


def test_two_processes_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep_many, args=(tmp_path, name)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len({result.cell for result in RunDirectory(tmp_path).results()}) == 40


def _claim(path: Path, answer: "multiprocessing.Queue[bool]") -> None:
    with RunDirectory(path).working(CELL) as mine:
        answer.put(mine)


def test_a_cell_is_claimed_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    with RunDirectory(tmp_path).working(CELL) as mine:
        assert mine
        other = context.Process(target=_claim, args=(tmp_path, answer))
        other.start()
        other.join(30)
        assert not answer.get(timeout=10)
    with RunDirectory(tmp_path).working(CELL) as mine:
        assert mine


def test_damaged_codes_are_named(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.folder(CELL) / "codes.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"itq-8-0/codes.npz cannot be read"):
        run.codes(CELL)
