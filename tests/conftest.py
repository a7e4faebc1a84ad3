"""Fixtures shared by all tests: tiny images, generated here, so that nothing large is committed."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PlaceImages = Callable[[Path, Iterable[str]], None]


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 8 x 8 pixels."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def place_images(tiny_image: Path) -> PlaceImages:
    """Function that puts the tiny image under many names below a folder, as links, so that thousands cost nothing."""

    def place(root: Path, names: Iterable[str]) -> None:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(tiny_image)

    return place
