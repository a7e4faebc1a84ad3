"""udmsh reproduce: every cell once, resumable, honest columns, pictures."""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import Once
from udmsh_pl.cli import main
from udmsh_pl.reports.table_rows import COLUMNS, Cell, Result, read_results, write_results
from udmsh_pl.retrieval import evaluate_codes

from .conftest import Run

METHODS = ("lsh", "itq", "udmsh", "udmsh-plus")


@pytest.fixture(scope="session")
def finished_run(colours: Path, once: Once) -> Path:
    """A finished run of the plan, which tests copy: training takes most of their time."""

    def run(out: Path) -> None:
        arguments = ["reproduce", colours / "config.yaml", "--out", out, "--trainer.max_epochs", 2]
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 0

    return once("run", run)


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, as ``run`` in the current folder."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_plan_is_run_reported_and_resumed(
    run_dir: Path,
    colours: Path,
    udmsh: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = read_results(run_dir / "results.csv")
    assert tuple(next(csv.reader((run_dir / "results.csv").open()))) == COLUMNS
    cells = {result.cell for result in results if result.bits}
    assert cells == {
        (method, bits, seed) for method in METHODS for bits in (8, 12) for seed in (0, 1)
    }
    for result in results:
        assert result.lower <= result.value + 1e-9 <= result.upper + 2e-9
        assert result.dataset == "colours"
        assert len(result.split_sha256) == 64
    table = (run_dir / "table.md").read_text()
    assert "mAP@10, 8 bits" in table
    assert "mAP@ALL, 12 bits" in table
    assert "±" in table
    for name in ("structure.png", "retrieved.png", "pr_curve.png"):
        with Image.open(run_dir / name) as picture:
            assert min(picture.size) > 200
    for form in ("markdown", "csv", "latex"):
        assert udmsh("table", "run", "--format", form) == 0
        assert "udmsh" in capsys.readouterr().out

    before, kept = (run_dir / "results.csv").read_bytes(), written(run_dir)
    (run_dir / "results.csv").unlink()  # derived from the cells' rows
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--trainer.max_epochs", 2)
    assert udmsh(*plan) == 0
    assert written(run_dir) == kept  # no cell ran
    assert (run_dir / "results.csv").read_bytes() == before
    assert len(before.splitlines()) == 1 + sum(
        len(path.read_bytes().splitlines()) - 1 for path in run_dir.glob("cells/*/rows.csv")
    )


def test_a_run_of_0_2_is_taken_over_and_not_trained_again(
    run_dir: Path, colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "results.csv").read_bytes()
    as_by_0_2(run_dir)
    assert udmsh("table", "run") == 0
    assert "| udmsh |" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in run_dir.glob("cells/*/codes.npz")}
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--trainer.max_epochs", 2)
    assert udmsh(*plan) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (run_dir / "results.csv").read_bytes() == before
    assert len(list(run_dir.glob("cells/*/rows.csv"))) == len(kept) + 1  # the features' own


def test_a_row_of_0_2_that_was_altered_is_run_again(
    run_dir: Path, colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_results(run_dir / "results.csv")
    as_by_0_2(run_dir)
    altered = [
        replace(row, value=0.999, upper=1.0) if row.cell == ("itq", 8, 1) else row for row in before
    ]
    write_results(run_dir / "results.csv", altered)
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--trainer.max_epochs", 2)
    assert udmsh(*plan) == 0
    assert "1 cells are of another split or altered" in capsys.readouterr().out
    after = read_results(run_dir / "results.csv")
    assert [(*r.cell, r.k, r.ties, r.value) for r in after] == [
        (*r.cell, r.k, r.ties, r.value) for r in before
    ]


def test_a_plan_that_was_killed_has_a_table(
    run_dir: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "results.csv").unlink()
    shutil.rmtree(run_dir / "cells/itq-8-0")
    (run_dir / "cells/lsh-8-0/rows.csv").write_text("altered")
    assert udmsh("table", "run", "--format", "csv") == 0
    found = capsys.readouterr().out
    assert all(name in found for name in METHODS)


def written(run: Path) -> dict[Path, int]:
    """When the marks of the finished cells were written."""
    return {path: path.stat().st_mtime_ns for path in run.glob("cells/*/done.json")}


def as_by_0_2(run: Path) -> None:
    """Make a run directory what 0.2 left: rows in results.csv alone, their digests in the marks."""
    by_cell: dict[str, list[Result]] = {}
    for row in read_results(run / "results.csv"):
        by_cell.setdefault(row.cell.name, []).append(row)
    for folder in (run / "cells").iterdir():
        (folder / "rows.csv").unlink()
        (folder / ".whole.json").unlink()
        mark = json.loads((folder / "done.json").read_text())
        digest = hashlib.sha256(repr(by_cell[folder.name]).encode()).hexdigest()
        mark["kept"] = {"rows": digest} | {
            name: value for name, value in mark["kept"].items() if name != "rows.csv"
        }
        (folder / "done.json").write_text(json.dumps(mark))


def test_stored_codes_and_weights_give_the_stored_value(
    run_dir: Path, colours: Path, udmsh: Run
) -> None:
    results = read_results(run_dir / "results.csv")
    with np.load(run_dir / "cells/udmsh-12-1/codes.npz", allow_pickle=False) as codes:
        report = evaluate_codes(
            codes["query_codes"],
            codes["database_codes"],
            codes["query_labels"],
            codes["database_labels"],
            12,
            ks=(10, None),
        )
    for k, name in ((10, "10"), (None, "all")):
        row = next(
            r
            for r in results
            if r.cell == ("udmsh", 12, 1) and r.k == name and r.ties == "expected"
        )
        assert row.value == pytest.approx(report.map[k], abs=1e-6)
        assert row.lower == pytest.approx(report.map_worst[k], abs=1e-6)
        row = next(
            r for r in results if r.cell == ("udmsh", 12, 1) and r.k == name and r.ties == "id"
        )
        assert row.value == pytest.approx(report.map_id[k], abs=1e-6)

    cell = run_dir / "cells/udmsh-12-1"
    assert [path.name for path in cell.rglob("*.ckpt")] == [
        "last.ckpt"
    ]  # weights once, without the optimiser's state
    assert "optimizer_states" not in torch.load(cell / "last.ckpt", weights_only=False)
    again = (
        "predict",
        "--config",
        colours / "config.yaml",
        "--model.bits",
        12,
        "--ckpt_path",
        cell / "last.ckpt",
    )
    assert udmsh(*again, "--trainer.default_root_dir", "again") == 0
    with (
        np.load("again/codes.npz", allow_pickle=False) as ours,
        np.load(cell / "codes.npz", allow_pickle=False) as stored,
    ):
        for split in ("query_codes", "database_codes"):
            np.testing.assert_array_equal(ours[split], stored[split])


def test_a_changed_setting_and_a_lost_cell_are_run_again(
    run_dir: Path, colours: Path, udmsh: Run
) -> None:
    before = {
        r.cell: r
        for r in read_results(run_dir / "results.csv")
        if r.k == "all" and r.ties == "expected"
    }
    shutil.rmtree(run_dir / "cells" / "itq-8-0")
    options = ("--bits", 8, "--seeds", 0, "--methods", "itq", "udmsh", "--trainer.max_epochs", 12)
    assert udmsh("reproduce", colours / "config.yaml", "--out", "run", *options) == 0
    after = {
        r.cell: r
        for r in read_results(run_dir / "results.csv")
        if r.k == "all" and r.ties == "expected"
    }
    assert set(after) == set(before)  # cells that were not asked for keep their rows
    assert after["itq", 8, 0].value == before["itq", 8, 0].value
    assert (run_dir / "cells" / "itq-8-0" / "codes.npz").is_file()
    assert after["udmsh", 8, 0].value != before["udmsh", 8, 0].value


def test_a_damaged_cell_is_run_again(run_dir: Path, colours: Path, udmsh: Run) -> None:
    again = ("reproduce", colours / "config.yaml", "--out", "run", "--trainer.max_epochs", 2)
    whole = (run_dir / "cells/itq-8-0/codes.npz").read_bytes()
    (run_dir / "cells/itq-8-0/codes.npz").unlink()
    (run_dir / "cells/itq-8-1/done.json").write_text("{")
    before = read_results(run_dir / "results.csv")
    assert udmsh(*again) == 0
    assert (run_dir / "cells/itq-8-0/codes.npz").read_bytes() == whole
    after = read_results(run_dir / "results.csv")
    values = ([(*r.cell, r.k, r.ties, r.value) for r in rows] for rows in (before, after))
    assert len(set(map(frozenset, values))) == 1


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (
            {"class_path": "udmsh_pl.models.UDMSH", "init_args": {"hiden": 8}},
            "did you mean hidden?",
        ),
        ({"class_path": "udmsh_pl.baselines.SGH", "init_args": {"anchor": 8}}, "mean anchors?"),
        ({"class_path": "udmsh_pl.baselines.SGH", "init_args": {"anchors": "x"}}, "anchors"),
        ({"class_path": "udmsh_pl.baselines.SGH", "init_args": {"anchors": 1}}, "at least 2"),
        ({"class_path": "udmsh_pl.baselines.SHG"}, "did you mean udmsh_pl.baselines.S"),
        ({"class_path": "udmsh_pl.errors.InputError"}, "neither a ShallowHash nor"),
        ({"class_path": "nowhere.SHG"}, "No module named 'nowhere'"),
    ],
)
def test_a_wrong_last_method_stops_the_plan_before_its_first_cell(
    colours: Path,
    udmsh: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: dict[str, object],
    problem: str,
) -> None:
    config = yaml.safe_load((colours / "config.yaml").read_text())
    config["reproduce"]["methods"]["last"] = method
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert udmsh("reproduce", "plan.yaml", "--out", "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "plan.yaml: method 'last'" in line
    assert problem in line
    assert not (tmp_path / "run").exists()


def test_unknown_method_is_refused(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert udmsh("reproduce", colours / "config.yaml", "--methods", "nothing") == 2
    assert "it has lsh, itq, udmsh" in capsys.readouterr().err


def test_a_profile_says_where_the_time_went(
    run_dir: Path, colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_dir / "cells" / Cell("udmsh", 8, 0).name)
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--trainer.max_epochs", 2)
    assert udmsh(*plan, "--profile") == 0
    text = (run_dir / "profile.txt").read_text()
    assert text in capsys.readouterr().out
    seconds = {line.split()[0]: float(line.split()[1]) for line in text.splitlines()[1:]}
    assert {"imports", "parsing", "steps", "evaluation", "report", "whole"} <= set(seconds)
    whole = seconds.pop("whole")
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.1)
    report = (run_dir / "report.html").read_text()
    assert "Where the time went" in report
    assert re.search(r"<pre>part +seconds +share +processor\nimports +\d", report)
    assert udmsh(*plan, "--profile", "--jobs", 2) == 2
    assert "leave out --jobs" in capsys.readouterr().err
