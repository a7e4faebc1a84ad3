"""A small data set that can be learned: four colours as list files, a tiny random backbone."""

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import Once
from udmsh_pl.cli import main

COLOURS = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60)]
Run = Callable[..., int]


def write_list(root: Path, name: str, count: int, generator: np.random.Generator) -> Path:
    lines = []
    for row in range(count):
        label = row % len(COLOURS)
        noise = generator.normal(COLOURS[label], 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(root / f"{name}{row}.png")
        lines.append(
            f"{name}{row}.png "
            + " ".join(str(int(column == label)) for column in range(len(COLOURS)))
        )
    (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root / f"{name}.txt"


@pytest.fixture(scope="session")
def colours(once: Once) -> Path:
    """A folder with images, ``query.txt`` (13 lines), ``database.txt`` (61) and ``config.yaml``."""
    return once("colours", make_colours)


def make_colours(root: Path) -> None:
    generator = np.random.default_rng(0)
    lists = {
        name: write_list(root, name, count, generator)
        for name, count in (("query", 13), ("database", 61))
    }
    config = {
        "seed_everything": 1,
        "model": {
            "class_path": "udmsh_pl.models.UDMSH",
            "init_args": {
                "bits": 12, "backbone": "tf_efficientnet_lite0", "hidden": 32, "spatial_hidden": 16,
                "learning_rate": 0.01,
            },
        },
        "data": {
            "class_path": "udmsh_pl.data.ListFiles",
            "init_args": {
                "root": str(root), "query": str(lists["query"]), "database": str(lists["database"]),
                "batch_size": 16, "num_workers": 0, "image_size": 32, "dataset": "colours",
                "cache_dir": str(root / "cache"), "views": 2, "extractor": "torch",
            },
        },
        "trainer": {
            "max_epochs": 6, "accelerator": "cpu", "num_sanity_val_steps": 1,
            "enable_model_summary": False, "enable_progress_bar": False, "log_every_n_steps": 1,
        },
        "reproduce": {
            "bits": [8, 12],
            "seeds": [0, 1],
            "ks": [10, None],
            "methods": {
                "lsh": {"class_path": "udmsh_pl.baselines.LSH"},
                "itq": {"class_path": "udmsh_pl.baselines.ITQ"},
                "udmsh": None,
                "udmsh-plus": {
                    "class_path": "udmsh_pl.models.UDMSHPlus",
                    "init_args": {"hidden": 64, "dims": 16, "warmup_steps": 2},
                },
            },
        },
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture
def udmsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in an empty folder; gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return int(stop.value.code or 0)

    return run


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> None:
    """They are blank, unless a test is marked ``draws``: few show what all have in common."""
    if request.node.get_closest_marker("draws") is None:
        request.getfixturevalue("blank_figures")


Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def udmsh_process(tmp_path: Path, python: Path) -> Process:
    """Run the command line in a process of its own; ``probe`` is given to ``probes.py``."""

    def run(*arguments: object, probe: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
        module = "tests.integration.probes" if probe else "udmsh_pl"
        command = [str(python), "-m", module, *map(str, (*probe, *arguments))]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return run


def logged(folder: Path, name: str) -> list[float]:
    """Metrics whose name starts with ``name`` in all CSV logs below a folder, oldest first."""
    files = sorted(folder.rglob("metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.open())]
    return [
        float(value) for row in rows for key, value in row.items() if key.startswith(name) and value
    ]


def recorder(folder: Path) -> tuple[str, ...]:
    """Arguments that add the recorder of ``probes.py`` to a fit."""
    return (
        "--trainer.callbacks+=tests.integration.probes.Recorder",
        f"--trainer.callbacks.folder={folder}",
    )


def assert_same_arrays(one: Path, two: Path) -> None:
    """Two ``.npz`` files hold the same arrays, bit by bit."""
    with np.load(one, allow_pickle=False) as first, np.load(two, allow_pickle=False) as second:
        assert first.files == second.files
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
