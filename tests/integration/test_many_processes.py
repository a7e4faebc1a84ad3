"""One plan, run in several ways: after one another, by workers, by ranks; the rows are the same."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Once
from udmsh_pl.reports.table_rows import read_results

from .conftest import Process, Run

PLAN = ("--bits", 8, "--seeds", 0, "--methods", "itq", "udmsh", "udmsh-plus")
EPOCHS = ("--trainer.max_epochs", 2)
Rows = dict[tuple[object, ...], float]


def rows(run: Path) -> Rows:
    """Every value by what it is a value of."""
    return {(*r.cell, r.metric, r.k, r.ties): r.value for r in read_results(run / "results.csv")}


@pytest.fixture(scope="module")
def one_by_one(colours: Path, python: Path, once: Once) -> Rows:
    """Rows of the plan run by one process."""
    arguments = ("reproduce", colours / "config.yaml", "--out", "one", *PLAN, *EPOCHS)
    command = [str(python), "-m", "udmsh_pl", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # others have a share of the cores

    def run(folder: Path) -> None:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]

    return rows(once("one by one", run) / "one")


def test_workers_share_the_cells(
    colours: Path, udmsh_process: Process, tmp_path: Path, one_by_one: Rows
) -> None:
    plan = ("reproduce", colours / "config.yaml", "--out", "run", *PLAN, *EPOCHS)
    done = udmsh_process(*plan, "--jobs", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(tmp_path / "run") == one_by_one
    assert done.stdout.count("\n[") == 3  # a line a cell, below the split's
    logs = "".join(path.read_text() for path in (tmp_path / "run/workers").glob("*.log"))
    assert logs.count(" s)") == 3  # each cell ran once


def test_ranks_train_together(
    colours: Path, udmsh_process: Process, tmp_path: Path, one_by_one: Rows
) -> None:
    plan = ("reproduce", colours / "config.yaml", "--out", "run", *PLAN, *EPOCHS)
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    done = udmsh_process(*plan, *ddp)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(tmp_path / "run") == one_by_one


@pytest.mark.slow
def test_torchrun_starts_workers(colours: Path, tmp_path: Path, one_by_one: Rows) -> None:
    plan = ("reproduce", colours / "config.yaml", "--out", "run", *PLAN, *EPOCHS)
    launcher = ("torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "-m", "udmsh_pl")
    command = [sys.executable, "-m", *launcher, *map(str, plan)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(tmp_path / "run") == one_by_one
    assert done.stdout.count("| method | mAP@10") == 1  # one process reports


@pytest.mark.slow
def test_a_killed_worker_gives_its_cell_back(
    colours: Path, tmp_path: Path, one_by_one: Rows
) -> None:
    plan = ("reproduce", colours / "config.yaml", "--out", "run", *PLAN, *EPOCHS, "--jobs", 2)
    command = [sys.executable, "-m", "udmsh_pl", *map(str, plan)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as parent:
        note = tmp_path / "run/cells/udmsh-plus-8-0/tries"
        deadline = time.monotonic() + 200
        while not note.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        locked = holders(note.parent)
        for pid in locked:
            os.kill(pid, signal.SIGKILL)
        assert parent.wait(200) == 0
    assert rows(tmp_path / "run") == one_by_one


def holders(locked: Path) -> list[int]:
    """Processes that have a lock file, or that of a cell's folder, open."""
    lock = str((locked / ".lock" if locked.is_dir() else locked).resolve())
    found = []
    for links in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.path.realpath(link) == lock for link in links.iterdir()):
                found.append(int(links.parent.name))
    return found


@pytest.mark.parametrize(
    "logger", ["WandbLogger", pytest.param("TensorBoardLogger", marks=pytest.mark.slow)]
)
def test_every_cell_and_the_table_are_in_the_logger(
    colours: Path,
    udmsh: Run,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    logger: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--bits", 8, "--seeds", 0, 1)
    plan = (*plan, "--methods", "itq", "udmsh", *EPOCHS, "--trainer.logger", logger)
    plan = (*plan, "--trainer.logger.save_dir", tmp_path / "elsewhere")
    if logger == "WandbLogger":  # a run that was left open takes no cell
        other = tmp_path_factory.mktemp("other")
        pytest.importorskip("wandb").init(project="other", dir=other, mode="offline")
        plan = (*plan, "--trainer.logger.offline", "true")
    for _ in range(2):  # what is finished is not logged twice
        assert udmsh(*plan) == 0
    runs = {"udmsh-8-0", "udmsh-8-1", "report"}
    if logger == "TensorBoardLogger":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folders = {path.name: path for path in (tmp_path / "run/tensorboard").iterdir()}
        assert set(folders) == runs
        events = EventAccumulator(str(folders["udmsh-8-1"])).Reload()
        assert {"loss/total", "val/map@all", "test/map@all"} <= set(events.Tags()["scalars"])
        report = EventAccumulator(str(folders["report"])).Reload()
        assert {"pr_curve", "map_bits", "retrieved"} <= set(report.Tags()["images"])
    else:
        found = {name: (keys, config, group) for name, keys, config, group in wandb_runs(tmp_path)}
        assert set(found) == runs
        keys, config, group = found["udmsh-8-1"]
        assert {"loss/total", "val/map@all", "test/map@all"} <= keys
        assert config["seed"] == 1
        assert len(config["split"]) == 64
        assert group == "run"
        shown = {key.partition("/")[0] for key in found["report"][0]}
        assert {"results", "pr_curve", "map_bits", "retrieved"} <= shown
    assert not (tmp_path / "wandb").exists()


def wandb_runs(folder: Path) -> list[tuple[str, set[str], dict[str, object], str]]:
    """Name, logged keys, config and group of every offline run below a folder."""
    from wandb.proto import wandb_internal_pb2

    runs = []
    for path in folder.rglob("*.wandb"):
        name, group, keys, config = "", "", set(), {}
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                name, group = record.run.display_name, record.run.run_group
            for update in (*record.run.config.update, *record.config.update):
                config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            for one in (*record.history.item, *record.summary.update):
                keys.add(one.key or "/".join(one.nested_key))
        runs.append((name, keys, config, group))
    return runs


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format: blocks of 32 KiB; CRC, length and kind before each part."""
    place, whole = 7, b""  # behind W&B's own header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield whole
            whole = b""
