"""Fashion-MNIST in its official format: IDX files."""

import struct
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.data.fashion_mnist import FashionMNIST
from udmsh_pl.errors import InputError


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.tobytes())


def test_official_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(
            raw / f"{part}-images-idx3-ubyte",
            generator.integers(0, 256, (count, 28, 28), dtype=np.uint8),
        )
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    module = FashionMNIST(root=tmp_path)
    module.download()  # nothing to fetch
    splits = module.splits
    assert (len(splits.query), len(splits.database)) == (20, 30)
    assert splits.train is splits.database
    assert splits.query.labels[13].argmax() == 3
    assert splits.query.load(0).size == (28, 28)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"FashionMNIST/raw: .* not there"):
        FashionMNIST(root=tmp_path).load_splits()
