"""``--evaluation.*``: who ranks changes no row, and what is not there is told before training."""

from pathlib import Path

import pytest

from udmsh_pl.reports.table_rows import read_results

from .conftest import Run, logged

PLAN = ("--bits", 8, "--seeds", 0, "--methods", "itq", "udmsh", "--trainer.max_epochs", 1)


def test_both_engines_give_the_same_rows(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    for engine in ("exact", "faiss"):
        plan = ("reproduce", colours / "config.yaml", "--out", engine, *PLAN)
        assert udmsh(*plan, "--evaluation.engine", engine) == 0
    exact, faiss = (
        {(*r.cell, r.metric, r.k, r.ties): r.value for r in read_results(tmp_path / name)}
        for name in ("exact/results.csv", "faiss/results.csv")
    )
    assert exact == faiss
    assert ("udmsh", 8, 0, "map", "10", "id") in faiss


def test_validation_tells_the_ranking_of_faiss(colours: Path, udmsh: Run, tmp_path: Path) -> None:
    csv = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs")
    fit = ("fit", "--config", colours / "config.yaml", "--trainer.max_epochs", 1, *csv)
    assert udmsh(*fit, "--evaluation.engine", "faiss") == 0
    assert len(logged(tmp_path / "logs", "val/map_id@all")) == 1


@pytest.mark.parametrize("command", [("fit", "--config"), ("reproduce",)])
def test_a_gpu_that_is_not_there_is_one_line_before_anything_is_trained(
    colours: Path,
    udmsh: Run,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert udmsh(*command, colours / "config.yaml", "--evaluation.device", "cuda") == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "udmsh: error" in line]
    assert len(told) == 1
    assert "torch sees no GPU" in told[0]
    assert not list(tmp_path.rglob("*.ckpt"))
