"""A disk without room: one line names the file, nothing is half written, numbers stay."""

from pathlib import Path

import pytest
import torch

from .conftest import Process, Run, assert_same_arrays, recorder
from .test_killed import stores, values


def refused(process: Process, call: str, number: int, file: str, *arguments: object) -> None:
    """Run ``udmsh ARGUMENTS`` on a disk full from that call on; expect a line with ``file``."""
    done = process(*arguments, probe=(call, number, "full"))
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("udmsh: error: "))
    assert done.stderr.strip().endswith(line)
    assert file in line
    assert "free some room" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number"), [("udmsh_pl.features.store.write_text", 3), ("os.fsync", 1)]
)
def test_extraction(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path, call: str, number: int
) -> None:
    fit = (
        "fit",
        "--config",
        colours / "config.yaml",
        "--trainer.max_epochs",
        1,
        "--data.cache_dir",
    )
    refused(udmsh_process, call, number, "cache/tf_efficientnet_lite0-clean-", *fit, "cache")
    assert not list(tmp_path.glob("cache/*/.*.part*"))
    assert udmsh(*fit, "cache") == udmsh(*fit, "whole") == 0
    assert stores(tmp_path / "cache") == stores(tmp_path / "whole")
    assert len(stores(tmp_path / "whole")) == 3  # queries, database, views


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number", "file"),
    [
        ("udmsh_pl.runs.checkpoints.atomic_path", 2, "checkpoints/epoch=1"),
        (
            "udmsh_pl.models.udmsh.multilevel_pairwise_loss",
            4,
            "a log of the run",
        ),  # the metrics come next
    ],
)
def test_training(
    colours: Path,
    udmsh: Run,
    udmsh_process: Process,
    tmp_path: Path,
    call: str,
    number: int,
    file: str,
) -> None:
    fit = (
        "fit",
        "--config",
        colours / "config.yaml",
        "--trainer.max_epochs",
        3,
        "--ckpt_path",
        "last",
    )
    fit = (*fit, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir")
    refused(udmsh_process, call, number, file, *fit, "two")
    (kept,) = (tmp_path / "two").rglob("checkpoints/*")
    assert kept.name == "epoch=0-step=3.ckpt"
    for run in ("one", "two"):
        assert udmsh(*fit, run, *recorder(tmp_path / run)) == 0
    one, two = (torch.load(tmp_path / run / "0.pt") for run in ("one", "two"))
    assert (len(one["steps"]), len(two["steps"])) == (9, 6)
    torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=0)


@pytest.mark.slow
def test_results_and_codes(
    colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path
) -> None:
    plan = ("reproduce", colours / "config.yaml", "--bits", 8, "--methods", "itq", "--out")
    assert udmsh(*plan, "whole") == 0
    for call, number, file in (
        ("udmsh_pl.runs.lightning_cli.write_environment", 1, "broken/environment.json"),
        ("udmsh_pl.reports.run_directory.write_results", 2, "broken/cells/itq-8-0/rows.csv"),
        ("udmsh_pl.reports.run_directory.save_arrays", 1, "broken/cells/itq-8-0/codes.npz"),
        ("udmsh_pl.reports.run_report.save_figure", 1, "broken/retrieved.png"),
    ):
        refused(udmsh_process, call, number, file, *plan, "broken")
        assert not list((tmp_path / "broken").rglob("*.part*"))
    assert udmsh(*plan, "broken") == 0
    assert values(tmp_path / "broken") == values(tmp_path / "whole")
    for cell in ("itq-8-0", "itq-8-1"):
        assert_same_arrays(
            *(tmp_path / run / "cells" / cell / "codes.npz" for run in ("whole", "broken"))
        )


def test_encoding(colours: Path, udmsh: Run, udmsh_process: Process, tmp_path: Path) -> None:
    config = ("--config", colours / "config.yaml")
    assert udmsh("fit", *config, "--trainer.max_epochs", 1) == 0
    predict = (
        "predict",
        *config,
        "--ckpt_path",
        next(tmp_path.rglob("*.ckpt")),
        "--trainer.default_root_dir",
    )
    assert udmsh(*predict, "one") == 0
    refused(
        udmsh_process, "udmsh_pl.callbacks.encode.save_arrays", 1, "two/codes.npz", *predict, "two"
    )
    assert [path.name for path in (tmp_path / "two").iterdir() if "codes" in path.name] == []
    assert udmsh(*predict, "two") == 0
    assert_same_arrays(tmp_path / "one/codes.npz", tmp_path / "two/codes.npz")
