"""Cells and extraction on a Ray cluster of three nodes in this machine: what one process gives."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.runs import on_ray

from .conftest import Run
from .test_extract import sums
from .test_many_processes import EPOCHS, PLAN, Rows, holders, one_by_one, rows

pytest.importorskip("ray", reason="needs the extra `cluster`")
assert one_by_one  # a fixture

STORE = 100 * 2**20


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes of one each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {"object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def started(tmp_path: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "udmsh_pl", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.02)


def kill_node(nodes: Any, worker: int) -> None:
    """Kill the node that a worker process is of."""
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    [node] = [
        node
        for node in nodes.worker_nodes
        if parent in (one.process.pid for one in node.all_processes["raylet"])
    ]
    nodes.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["two nodes", "one of two killed"])
def test_nodes_share_the_cells(
    colours: Path, nodes: Any, tmp_path: Path, one_by_one: Rows, kill: bool
) -> None:
    plan = ("reproduce", colours / "config.yaml", "--out", "run", *PLAN, *EPOCHS)
    cache = ("--data.cache_dir", tmp_path / "cache")
    with started(tmp_path, *plan, *cache, "--ray", nodes.address) as process:
        if kill:
            cell = tmp_path / "run/cells/udmsh-plus-8-0"
            wait_for(cell / "begun.json", process)
            [worker] = holders(cell)
            kill_node(nodes, worker)
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told[-3000:]
    assert rows(tmp_path / "run") == one_by_one
    assert told.count(" mAP@10 ") == 3  # a line a cell
    assert not list(tmp_path.rglob(".ray-*"))


@pytest.mark.slow
def test_a_killed_node_costs_its_part_of_an_extraction(
    colours: Path, nodes: Any, udmsh: Run, tmp_path: Path
) -> None:
    extract = ("data", "extract", colours / "config.yaml", "--data.cache_dir")
    assert udmsh(*extract, tmp_path / "one") == 0
    with started(tmp_path, *extract, tmp_path / "two", "--ray", nodes.address) as process:
        worker = None
        while worker is None:
            assert process.poll() is None, process.communicate()[0][-3000:]
            begun = (tmp_path / "two").glob("*.part")
            locks = [part.with_suffix(".lock") for part in begun]
            worker = next((one for lock in locks for one in holders(lock)), None)
            time.sleep(0.005)
        kill_node(nodes, worker)
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told[-3000:]
    assert "all features are in" in told
    assert sums(tmp_path / "two") == sums(tmp_path / "one")


@pytest.mark.slow
def test_a_cell_that_fails_twice_is_told_as_missing(
    colours: Path, nodes: Any, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    plan = ("reproduce", colours / "config.yaml", "--out", "run", "--bits", 8, "--seeds", 0)
    plan = (*plan, "--reproduce.methods.deadly", "{class_path: deadly.Deadly}")
    with started(tmp_path, *plan, "--methods", "itq", "deadly", "--ray", nodes.address) as process:
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 1, told[-3000:]
    assert "missing: deadly-8-0; see run/workers/" in told
    assert "itq" in told
    assert (tmp_path / "run/workers/deadly-8-0.log").read_text()
    assert (tmp_path / "deaths").read_text() == "xx"


DEADLY = """
import os

from udmsh_pl.baselines import LSH

class Deadly(LSH):
    def fit(self, features):
        with open("deaths", "a") as stream:
            stream.write("x")
        os._exit(1)
"""


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


def test_a_task_has_a_gpu_or_a_share_of_the_cores() -> None:
    assert on_ray.share_of([node(CPU=64, GPU=8), node(CPU=16, GPU=4), node(CPU=4)], 9) == (1, 4)
    assert on_ray.share_of([node(CPU=16), node(CPU=8), node(False, CPU=1), node()], 6) == (0, 4)
    assert on_ray.share_of([node(CPU=16), node(CPU=2)], 3) == (0, 2)  # no more than a node has
    assert on_ray.share_of([node(CPU=2)], 45) == (0, 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--ray", "127.0.0.1:1"), "no Ray cluster is there"),
        (("--ray", "auto"), "no Ray cluster is there"),
        (("--ray", "auto", "--jobs", 2), "give one of them"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    colours: Path, udmsh: Run, capfd: pytest.CaptureFixture[str], given: Any, told: str
) -> None:
    assert udmsh("reproduce", colours / "config.yaml", "--methods", "itq", *given) == 2
    assert told in capfd.readouterr().err


def test_the_note_of_a_cluster_that_was_killed_is_one_line(
    colours: Path, udmsh: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert udmsh("reproduce", colours / "config.yaml", "--methods", "itq", "--ray", "auto") == 2
    assert "no Ray cluster is there" in capfd.readouterr().err


def test_a_node_that_sees_other_folders_is_told(colours: Path, tmp_path: Path) -> None:
    source = str(colours / "config.yaml")
    place = on_ray.Place(str(tmp_path), (str(tmp_path / ".ray-1"),), source, ())
    with pytest.raises(InputError, match=f"does not see {tmp_path}"):
        place.configuration()


@pytest.mark.slow
def test_an_index_has_the_same_rows(nodes: Any, tmp_path: Path) -> None:
    """Encoded here and on two nodes; a file that is no picture lies among them."""
    from tests.serving import draw
    from udmsh_pl.search import HashEncoder, ImageIndex

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(70):
        draw(pictures / f"{number:02d}.png", number)
    (pictures / "30 broken.png").write_text("no picture")
    ImageIndex.build(pictures, out=tmp_path / "first").encoder.save(tmp_path / "encoder")
    here = ImageIndex.build(pictures, HashEncoder(tmp_path / "encoder"), out=tmp_path / "here")
    options = ("--out", tmp_path / "there", "--model", tmp_path / "encoder")
    command = ("index", pictures, *options, "--ray", nodes.address)
    with started(tmp_path, *command) as process:
        told = process.communicate(timeout=300)[0]
        assert process.returncode == 0, told[-3000:]
    assert "30 broken.png" in told
    there = ImageIndex.open(tmp_path / "there")
    assert len(there.manifest.segments) == 36  # of two pictures, more than one a node
    assert list(there.rows.names) == list(here.rows.names)
    for name in ("files", "codes", "features"):
        assert (getattr(there.rows, name) == getattr(here.rows, name)).all(), name
    assert list(there.rows.thumbnails) == list(here.rows.thumbnails)
    with started(tmp_path, *command) as process:  # an update is encoded here
        assert "leave it out" in process.communicate(timeout=60)[0]
        assert process.returncode == 2
