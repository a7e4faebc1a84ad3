"""A job that SLURM requeued goes on where it was, under its own settings, and scores its end."""

import csv
import shutil
from pathlib import Path

import pytest

from udmsh_pl.reports.table_rows import read_results

from .conftest import Run, assert_same_arrays

SLURM = {
    "NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0",
}  # fmt: skip
CELL = "run/cells/udmsh-8-0"


def epochs(folder: Path) -> set[int]:
    """Epochs that the newest training of the cell has logged."""
    with (folder / CELL / "logs/metrics.csv").open() as stream:
        return {int(row["epoch"]) for row in csv.DictReader(stream) if row["loss/total"]}


def values(folder: Path) -> list[tuple[object, ...]]:
    found = read_results(folder / "run/results.csv")
    return [(*r.cell, r.metric, r.k, r.ties, r.value, r.lower, r.upper) for r in found]


@pytest.mark.slow
def test_a_requeued_cell_is_trained_to_its_end_and_scored_there(
    colours: Path, udmsh: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=kept")
    keep = (*keep, "--trainer.callbacks.save_top_k=-1")
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--bits", 8, "--seeds", 0)
    plan = (*plan, "--methods", "udmsh", "--trainer.max_epochs", 3, *keep)
    whole, requeued = tmp_path / "whole", tmp_path / "requeued"
    whole.mkdir()
    monkeypatch.chdir(whole)
    assert udmsh(*plan) == 0
    assert epochs(whole) == {0, 1, 2}
    [middle] = (whole / "kept").glob("epoch=0-*.ckpt")

    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    shutil.copytree(whole, requeued)
    monkeypatch.chdir(requeued)
    planted = requeued / CELL / "hpc_ckpt_1.ckpt"
    for options, trained in (
        ((), {1, 2}),  # its own: goes on
        (("--model.learning_rate", 0.02), {0, 1, 2}),  # another training's: begins anew
    ):
        (requeued / CELL / "done.json").unlink()
        shutil.copy(middle, planted)
        assert udmsh(*plan, *options) == 0
        assert epochs(requeued) == trained
        assert not planted.exists()
        if not options:
            assert values(requeued) == values(whole)
            assert_same_arrays(whole / CELL / "codes.npz", requeued / CELL / "codes.npz")
