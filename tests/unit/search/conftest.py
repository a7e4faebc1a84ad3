"""Pictures that a hash can tell apart, and an index of them that tests copy instead of building."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Once

from udmsh_pl.search import ImageIndex


def draw(path: Path, seed: int, side: int = 96) -> Path:
    """A picture of coarse random squares, which survive JPEG and resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session")
def built(once: Once) -> Path:
    """A folder with ``pictures`` (12 PNG, one of them in a folder below, one text file named
    ``broken.jpg``) and their ``index``, learned from them.
    """
    return once("built", make)


def make(root: Path) -> None:
    (root / "pictures/below").mkdir(parents=True)
    for number in range(11):
        draw(root / f"pictures/{number:02d}.png", number)
    draw(root / "pictures/below/11.png", 11)
    (root / "pictures/broken.jpg").write_text("no picture")
    ImageIndex.build(root / "pictures", out=root / "index")


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` whose index is that of the copied pictures."""
    shutil.copytree(built, tmp_path / "copy", copy_function=shutil.copy2)
    ImageIndex.open(tmp_path / "copy/index").update(tmp_path / "copy/pictures", moved=True)
    return tmp_path / "copy"
