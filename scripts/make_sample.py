"""Make the embedded Fashion-MNIST sample from the official IDX files.

The files are those of Debian's package dataset-fashion-mnist (or of the official download, which
are the same):

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb unpacked
    sample=src/udmsh_pl/data/files/fashion_sample.npz
    python scripts/make_sample.py unpacked/usr/share/datasets/fashion-mnist $sample

The choice and the order of the images depend on the seed below alone, so the same arrays come out
again.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.safe.files import atomic_path

SEED = 2024
PER_CLASS = {"query": 50, "database": 500}
OFFICIAL = {"query": "t10k", "database": "train"}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes (yann.lecun.com/exdb/mnist: magic, sizes, data)."""
    data = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = struct.unpack(">HBB", data[:4])
    if zeros != 0 or kind != 8:
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def choose(
    labels: NDArray[np.uint8], per_class: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of ``per_class`` random images of each class, shuffled."""
    rows = [
        generator.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in range(10)
    ]
    return generator.permutation(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded Fashion-MNIST sample.")
    parser.add_argument(
        "source", type=Path, help="folder with t10k-images-idx3-ubyte.gz and its three siblings"
    )
    parser.add_argument("target", type=Path, help="npz file to write")
    arguments = parser.parse_args()
    generator = np.random.default_rng(SEED)
    arrays: dict[str, NDArray[np.generic]] = {}
    for split, official in OFFICIAL.items():
        images = read_idx(arguments.source / f"{official}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.source / f"{official}-labels-idx1-ubyte.gz")
        rows = choose(labels, PER_CLASS[split], generator)
        arrays |= {
            f"{split}_images": images[rows],
            f"{split}_labels": labels[rows],
            f"{split}_rows": rows.astype(np.uint16),
        }
    with atomic_path(arguments.target) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
