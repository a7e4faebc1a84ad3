"""Killed at a chosen call, run again: the numbers are those of a run that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from udmsh_pl.reports.table_rows import read_results

from .conftest import Process, Run, assert_same_arrays, recorder


def killed(process: Process, call: str, number: int, *arguments: object) -> None:
    """Run ``udmsh ARGUMENTS`` with a kill at that call."""
    done = process(*arguments, probe=(call, number, "kill"))
    assert done.returncode == -signal.SIGKILL, (
        f"{call} was not called {number} times: {done.stderr[-2000:]}"
    )


def stores(cache: Path) -> dict[str, Any]:
    """Checksums of every finished feature store."""
    return {
        path.parent.name: json.loads(path.read_text())["arrays"]
        for path in cache.glob("*/meta.json")
    }


def values(run: Path) -> list[tuple[object, ...]]:
    """What a run found, without the time that it took."""
    return sorted(
        (*r.cell, r.k, r.ties, r.value, r.lower, r.upper, r.split_sha256)
        for r in read_results(run / "results.csv")
    )


def assert_same_training(one: Path, two: Path) -> None:
    """The resumed run ends with the other's weights, bit by bit, and took the same last steps."""
    whole, resumed = (torch.load(path / "0.pt") for path in (one, two))
    assert 0 < len(resumed["steps"]) < len(whole["steps"])
    for expected, step in zip(
        whole["steps"][-len(resumed["steps"]) :], resumed["steps"], strict=True
    ):
        assert (step["epoch"], step["rows"].tolist()) == (
            expected["epoch"],
            expected["rows"].tolist(),
        )
        torch.testing.assert_close(step["loss"], expected["loss"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["weights"], whole["weights"], rtol=0, atol=0)


@pytest.mark.slow
def test_extraction_goes_on_where_it_was_killed(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path
) -> None:
    # 16 views: four images a batch, 32 between two safe points, so that the third store is written
    # in two blocks
    options = (
        "fit",
        "--config",
        colours / "config.yaml",
        "--data.views",
        16,
        "--trainer.max_epochs",
        1,
    )
    broken = (*options, "--data.cache_dir", tmp_path / "broken")
    writes = "udmsh_pl.features.store.write_text"  # a block is counted, or a store finished
    killed(udmsh_process, writes, 1, *broken)  # the first block is on disk, but not counted
    killed(udmsh_process, writes, 4, *broken)  # the second store is whole, but has no checksums
    killed(udmsh_process, writes, 3, *broken)  # one block of views is counted, the next is written
    (part,) = (tmp_path / "broken").glob("*.part")
    assert json.loads((part / "done.json").read_text())["rows"] == 32
    assert udmsh(*broken) == 0
    assert udmsh(*options, "--data.cache_dir", tmp_path / "whole") == 0
    assert stores(tmp_path / "broken") == stores(tmp_path / "whole")
    assert len(stores(tmp_path / "whole")) == 3
    assert not list((tmp_path / "broken").glob("*.part"))


@pytest.mark.parametrize(
    ("call", "number", "options"),
    [
        # three steps an epoch, saved after every second step: in the middle of an epoch, and at its
        # end
        pytest.param(
            "udmsh_pl.models.udmsh.multilevel_pairwise_loss",
            5,
            ("--model.isometry", "rotation"),
            marks=pytest.mark.slow,
        ),
        (
            "udmsh_pl.models.udmsh.multilevel_pairwise_loss",
            5,
            ("--model", "tests.integration.probes.WithDropout"),
        ),
        pytest.param(
            "udmsh_pl.models.udmsh.multilevel_pairwise_loss", 8, (), marks=pytest.mark.slow
        ),
        pytest.param(
            "udmsh_pl.models.udmsh.multilevel_pairwise_loss",
            11,
            ("--model.finetune", "true", "--data.num_workers", "2"),
            marks=pytest.mark.slow,
        ),
        # the third checkpoint is written, but not in its place
        pytest.param("os.fsync", 5, (), marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_inside_an_epoch(
    colours: Path,
    udmsh: Run,
    udmsh_process: Process,
    tmp_path: Path,
    call: str,
    number: int,
    options: tuple[str, ...],
) -> None:
    every = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2")
    arguments = (
        "fit",
        "--config",
        colours / "config.yaml",
        *options,
        "--data.views",
        3,
        *every,
        "--ckpt_path",
        "last",
    )
    arguments = (*arguments, "--trainer.max_epochs", 4, "--trainer.default_root_dir")
    assert udmsh(*arguments, "one", *recorder(tmp_path / "one")) == 0
    killed(udmsh_process, call, number, *arguments, "two")
    assert udmsh(*arguments, "two", *recorder(tmp_path / "two")) == 0
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_a_run_that_went_on_goes_on_again(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    arguments = (
        *("fit", "--config", colours / "config.yaml", "--trainer.max_epochs", 3),
        *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=1"),
        *("--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.dirpath", tmp_path / "saved"),
        *("--ckpt_path", "last", "--trainer.default_root_dir", tmp_path / "run"),
    )

    def steps() -> dict[int, Path]:
        return {int(path.stem.split("=")[-1]): path for path in (tmp_path / "saved").glob("*.ckpt")}

    def newest() -> tuple[int, dict[str, torch.Tensor]]:
        assert udmsh(*arguments) == 0
        number = max(steps())
        return number, torch.load(steps()[number], weights_only=True)["state_dict"]

    number, weights = newest()
    # an epoch's last batch, and the first of the next
    for last in (number // 3, number // 3 + 1):
        for step, path in steps().items():
            if step > last:
                path.unlink()
        again, resumed = newest()
        assert again == number
        torch.testing.assert_close(resumed, weights, rtol=0, atol=0)


@pytest.mark.slow
def test_a_plan_and_an_encoding_go_on(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path
) -> None:
    plan = (
        "reproduce",
        colours / "config.yaml",
        "--bits",
        8,
        "--methods",
        "itq",
        "udmsh",
        "--trainer.max_epochs",
        2,
        "--out",
    )
    assert udmsh(*plan, "whole") == 0
    for call, number in (
        (
            "udmsh_pl.reports.run_directory.write_results",
            2,
        ),  # in the first cell: its codes are there, its results are not
        ("udmsh_pl.reports.run_directory.RunDirectory.finished", 3),  # between two cells
        ("udmsh_pl.models.udmsh.multilevel_pairwise_loss", 5),  # while the third cell trains
        ("udmsh_pl.retrieval.evaluation.evaluate_codes", 1),  # trained, being scored
        ("udmsh_pl.reports.run_report.page", 1),  # all cells done, the report is not
    ):
        killed(udmsh_process, call, number, *plan, "broken")
    assert udmsh(*plan, "broken") == 0
    assert values(tmp_path / "broken") == values(tmp_path / "whole")
    assert (
        len(values(tmp_path / "whole")) == 2 + 2 * 2 * 2 * 2
    )  # the reference; methods, seeds, cut-offs, treatments of ties
    for cell in ("itq-8-1", "udmsh-8-0", "udmsh-8-1"):
        assert_same_arrays(
            *(tmp_path / run / "cells" / cell / "codes.npz" for run in ("whole", "broken"))
        )
    tables = [
        (tmp_path / run / "table.md").read_text().split("| method | training, s |")
        for run in ("whole", "broken")
    ]
    assert tables[0][0] == tables[1][0]  # but for the seconds, which no two runs share
    assert len(tables[0]) == len(tables[1]) == 2

    weights = tmp_path / "whole/cells/udmsh-8-0/last.ckpt"
    encode = (
        "predict",
        "--config",
        colours / "config.yaml",
        "--model.bits",
        8,
        "--ckpt_path",
        weights,
    )
    encode = (*encode, "--trainer.default_root_dir")
    assert udmsh(*encode, "one") == 0
    killed(
        udmsh_process, "os.fsync", 2, *encode, "two"
    )  # after environment.json: the codes are written, not in place
    assert not (tmp_path / "two/codes.npz").exists()
    assert udmsh(*encode, "two") == 0
    assert_same_arrays(tmp_path / "one/codes.npz", tmp_path / "two/codes.npz")


@pytest.mark.slow
def test_ended_at_random_moments() -> None:
    trials = os.environ.get("UDMSH_KILL_TRIALS", "6")  # of one to three kills each
    command = [sys.executable, "-m", "tests.kills", "--count", trials, "--seed", "1", "--jobs", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 trials failed" in done.stdout
