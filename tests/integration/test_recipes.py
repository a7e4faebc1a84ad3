"""The recipes of CONTRIBUTING.md, followed from outside the package in a folder of their own."""

from pathlib import Path

import pytest
import yaml

from udmsh_pl.reports.table_rows import read_results

from .conftest import Process

MODULE = '''
from pathlib import Path

import numpy as np

from udmsh_pl.baselines import ShallowHash
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.images import ImageList, Protocol, Splits
from udmsh_pl.models import HashingModule
from udmsh_pl.retrieval.measures import Measure


class MyShallow(ShallowHash):
    """Signs of the first features."""

    def fit(self, features):
        self.mean = features.mean(0)

    def project(self, features):
        return (features - self.mean)[:, : self.bits]


class MyHash(HashingModule):
    """Codes that are far from zero.

    Args:
        margin: how far
    """

    def __init__(self, *, bits: int = 64, hidden: int = 16, margin: float = 0.5):
        super().__init__(bits=bits, hidden=hidden, branches="global")
        self.margin = margin

    def objective(self, batch):
        return {"margin": (self.margin - self(batch).abs()).relu().mean()}


class MyData(RetrievalDataModule):
    """Three colours, in memory.

    Args:
        count: database images
    """

    def __init__(self, *, count: int = 40, batch_size: int = 16):
        super().__init__(batch_size=batch_size, image_size=32, num_workers=0,
                         cache_dir=Path("cache"), extractor="torch")
        self.count = count

    def load_splits(self):
        def images(name, count):
            labels = np.eye(3, dtype=bool)[np.arange(count) % 3]
            pixels = (labels[:, None, None, :] * 200).repeat(8, 1).repeat(8, 2).astype(np.uint8)
            pixels = pixels + np.random.default_rng(0).integers(0, 50, pixels.shape, dtype=np.uint8)
            return ImageList([f"{name}{i}" for i in range(count)], labels, pixels=pixels)

        facts = Protocol("mine", "three", 9, self.count, self.count, 3, None, "mine", "", "")
        database = images("database", self.count)
        return Splits(facts, images("query", 9), database, database)


def first_hit(report):
    """Share of the queries whose nearest item is relevant."""
    value = report.precision_at(1)
    return [Measure("first_hit", 1, value)]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``my_module.py`` and a plan that names its classes."""
    (tmp_path / "my_module.py").write_text(MODULE)
    plan = {
        "model": {"class_path": "my_module.MyHash"},
        "data": {"class_path": "my_module.MyData", "init_args": {"count": 30}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "reproduce": {
            "bits": [8],
            "seeds": [0],
            "ks": [5],
            "measures": ["mean_average_precision", "my_module.first_hit"],
            "methods": {"mine": None, "shallow": {"class_path": "my_module.MyShallow"}},
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    return tmp_path


def test_method_benchmark_and_measure_of_ones_own(folder: Path, udmsh_process: Process) -> None:
    done = udmsh_process("reproduce", "plan.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {(r.method, r.metric, r.k): r.value for r in read_results(folder / "run/results.csv")}
    methods = {method for method, _, _ in rows}
    assert methods == {"mine", "shallow", "cosine (real-valued)"}
    for method in ("mine", "shallow"):
        assert 0 <= rows[method, "map", "5"] <= 1
        assert 0 <= rows[method, "first_hit", "1"] <= 1
    assert "FIRST_HIT@1, 8 bits" in (folder / "run/table.md").read_text()
    assert (folder / "run/cells/mine-8-0/last.ckpt").is_file()
