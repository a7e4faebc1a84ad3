"""Fixtures shared by all tests: tiny images, generated here, so that nothing large is committed."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

# no test is a race against the clock; the rest is Hypothesis's own, its profile for CI too
settings.register_profile("no deadline", settings.default, deadline=None)
settings.load_profile("no deadline")

PlaceImages = Callable[[Path, Iterable[str]], None]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoders and compiled graphs of tests are not left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDMSH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(tiny_image)

    return place


@pytest.fixture
def train_and_score(tmp_path: Path) -> Callable[[str, dict[str, Any]], dict[str, float]]:
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
