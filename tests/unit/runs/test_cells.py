"""Cells that run one after the other in a process."""

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from udmsh_pl.models import UDMSH
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.runs.cells import Configuration, Runner


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Path]:
    generator = np.random.default_rng(0)
    lists = {"query": range(4), "database": range(4, 20)}
    for name, rows in lists.items():
        for row in rows:
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        lines = [f"{row}.png {row % 2} {1 - row % 2}\n" for row in rows]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    data = {name: str(tmp_path / f"{name}.txt") for name in lists} | {"root": str(tmp_path)}
    data |= {"cache_dir": str(tmp_path / "cache"), "extractor": "torch"}
    data |= {"image_size": 32, "num_workers": 0, "batch_size": 8}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "udmsh_pl.models.UDMSH", "init_args": {"hidden": 8}},
        "data": {"class_path": "udmsh_pl.data.ListFiles", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "logger": False},
        "reproduce": {"bits": [8], "seeds": [0, 1], "ks": [2]},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(config))
    yield path
    gc.unfreeze()


def test_trained_cells_do_not_pile_up_in_memory(plan: Path, blank_figures: None) -> None:
    """Lightning keeps the last trainer, and so its model; it shall be the only one."""
    configuration = Configuration(plan)
    run = Runner(configuration, configuration.plan, RunDirectory(plan.parent / "run"))
    run.prepare()
    for cell in configuration.plan.cells():
        assert run.run(cell) == "ran"
        assert len([one for one in gc.get_objects() if type(one) is UDMSH]) <= 1
    assert [run.run(cell) for cell in configuration.plan.cells()] == ["was finished"] * 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: what one array gave back the next one gets without new pages."""
    code = """
import resource
import numpy as np
from udmsh_pl.runs.lightning_cli import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100_000_000, np.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = map(int, found.stdout.split())
    assert max(others) < first / 10
