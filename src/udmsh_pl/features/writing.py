"""A backbone's pass over decoded pictures, written to a store block by block."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.features.forward import Forward
from udmsh_pl.features.store import DTYPE, FeatureWriter

BLOCK = 8  # batches between two safe points


def fill(
    writer: FeatureWriter,
    batches: Iterator[tuple[Tensor, list[str]]],
    forward: Forward,
    names: Sequence[str],
    rows: range,
    told: str,
) -> None:
    """Append the features of ``rows`` from where the store was left, with a bar on stderr.

    Args:
        writer: the store
        batches: pixels uint8 ``[B, V, 3, H, W]``, and for each picture why it cannot be decoded,
            or ``""``
        forward: the backbone
        names: of all images of the list
        rows: of the list, that the store is to hold
        told: what they are, for the bar

    Raises:
        InputError: a feature cannot be stored, or the disk is full.
    """
    every = 0.5 if sys.stderr.isatty() else 10  # seconds between lines: a log file stays short
    pending: list[dict[str, NDArray[Any]]] = []
    broken: dict[int, str] = {}
    row = rows.start + writer.done
    with tqdm(
        total=len(rows),
        initial=writer.done,
        unit="img",
        desc=f"{told}, {writer.bytes_needed / 1e6:.0f} MB",
        mininterval=every,
    ) as bar:
        for number, (pixels, reasons) in enumerate(batches, 1):
            parts = zip(writer.shapes.items(), forward(pixels.flatten(0, 1)), strict=True)
            good = [at for at, reason in enumerate(reasons) if not reason]
            block = {
                name: part.float().cpu().numpy().reshape(-1, *shape)[good]
                for (name, shape), part in parts
            }
            check_storable(block, [names[row + at] for at in good])
            pending.append(block)
            broken |= {row + at: reason for at, reason in enumerate(reasons) if reason}
            row += len(reasons)
            bar.update(len(reasons))
            if number % BLOCK == 0 or row == rows.stop:
                joined = {
                    name: np.concatenate([one[name] for one in pending]) for name in writer.shapes
                }
                writer.append(joined, broken)
                pending.clear()
                broken.clear()


def check_storable(block: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> None:
    """Refuse features that a store cannot tell from others.

    Args:
        block: arrays ``[n, ...]``
        names: of the n images

    Raises:
        InputError: a value is not finite, or beyond what float16 can hold.
    """
    for name, values in block.items():
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), initial=0)
        for row in np.flatnonzero(~(largest <= np.finfo(DTYPE).max)).tolist():
            raise InputError(
                f"{names[row]}: the backbone's {name} is {largest[row]:.3g}, beyond what can be "
                "stored (65504); are its weights damaged, or its input of another scale?"
            )
