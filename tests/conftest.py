"""Fixtures shared by all tests: tiny images, generated here, so that nothing large is committed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image

from tests import forks

# no test is a race against the clock; the rest is Hypothesis's own, its profile for CI too
settings.register_profile("no deadline", settings.default, deadline=None)
settings.load_profile("no deadline")

PlaceImages = Callable[[Path, Iterable[str]], None]
Once = Callable[[str, Callable[[Path], object]], Path]
FORKS = "UDMSH_TEST_FORKS"  # variable that names the folder of ``tests.forks``
SKIPS = Path(__file__).with_name("skips.txt")


class NoSkips:
    """Fails a session in which a test skipped for a reason that ``skips.txt`` does not list."""

    def __init__(self) -> None:
        lines = SKIPS.read_text(encoding="utf-8").splitlines()
        self.allowed = [one.partition("\t")[0] for one in lines if one[:1] != "#"]
        self.refused: list[str] = []

    def note(self, report: Any) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2])
            if not any(re.search(pattern, reason) for pattern in self.allowed):
                self.refused.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.refused:
            terminalreporter.section("skips that tests/skips.txt does not list")
            for line in self.refused:
                terminalreporter.line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail on skips not in tests/skips.txt")


def pytest_configure(config: pytest.Config) -> None:
    workers = config.getoption("tx", None)  # of pytest-xdist, which starts them later
    # other systems' own libraries do not outlive a fork
    if workers and set(workers) == {"popen"} and sys.platform == "linux":
        folder = Path(tempfile.mkdtemp(prefix="udmsh"))
        process = forks.start(folder)
        os.environ[FORKS] = str(folder)
        config.option.tx = [f"popen//python={folder / 'python'}"] * len(workers)
        config.add_cleanup(lambda: end(process))
    if config.getoption("--no-skips") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(NoSkips())


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoders and compiled graphs of tests are not left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDMSH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Function that makes a folder by a function, once for all workers of pytest-xdist, none of
    which may change it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.made").exists():
                shutil.rmtree(root / name, ignore_errors=True)  # half of one
                (root / name).mkdir()
                make(root / name)
                (root / f"{name}.made").touch()
        return root / name

    return made


def end(process: "subprocess.Popen[str]") -> None:
    with process:  # its input ends, and so does it
        pass


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``python`` of ``tests.forks``, of which the workers of pytest-xdist are forks too."""
    if FORKS in os.environ:
        yield Path(os.environ[FORKS], "python")
        return
    folder = tmp_path_factory.mktemp("forks")
    process = forks.start(folder)
    yield folder / "python"
    end(process)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and written, but not drawn: that takes most of the time of a tiny run."""
    monkeypatch.setattr(Figure, "draw", lambda *_: None)


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 8 x 8 pixels."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def place_images(tiny_image: Path) -> PlaceImages:
    """Function that puts the tiny image under many names below a folder, as links."""

    def place(root: Path, names: Iterable[str]) -> None:
        paths = [root / name for name in names]
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.symlink_to(tiny_image)

    return place


@pytest.fixture
def train_and_score(
    tmp_path: Path, blank_figures: None
) -> Callable[[str, dict[str, Any]], dict[str, float]]:
    """Function that runs ``udmsh fit``, then tests, on a data module; gives the metrics."""

    def run(data: str, arguments: dict[str, Any]) -> dict[str, float]:
        from udmsh_pl.runs.lightning_cli import UdmshCLI

        own = {
            "image_size": 32,
            "cache_dir": str(tmp_path / "cache"),
            "num_workers": 0,
            "extractor": "torch",
        }
        trainer = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
        }
        config = {
            "seed_everything": 0,
            "model": {"class_path": "udmsh_pl.models.UDMSH", "init_args": {"bits": 16}},
            "data": {"class_path": f"udmsh_pl.data.{data}", "init_args": own | arguments},
            "trainer": trainer | {"default_root_dir": str(tmp_path / "run")},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        cli = UdmshCLI(["fit", "--config", str(tmp_path / "config.yaml")])
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}

    return run
