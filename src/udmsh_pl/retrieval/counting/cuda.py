"""Counting and searching in torch, on a CUDA device: the same whole numbers as on the processor.

Codes become rows of -1/+1, so that one matrix product gives all distances of a block: d = (bits - u
. v) / 2. Products of signs in half precision with float32 sums are exact up to 2^11 bits; longer
codes are multiplied in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Words

# distances that are there at once: 64 x 2^18 of them are 128 MB as int64
QUERIES_AT_ONCE = 64
ITEMS_AT_ONCE = 1 << 18


def count_grades(
    query: Words,
    database: Words,
    query_labels: Words,
    database_labels: Words,
    bits: int,
    levels: int,
    device: str,
) -> npt.NDArray[np.int64]:
    """Count as ``kernel.count_grades`` does; raises ``InputError`` without such a device."""
    place = checked_device(device)
    kind = _precision(place, max(bits, 64 * query_labels.shape[1]))
    counts = np.empty((len(query), bits + 1, levels), dtype=np.int64)
    for rows, codes in _blocks(query, QUERIES_AT_ONCE):
        masks = _bits(query_labels[rows], place, kind)
        signs = 2 * _bits(codes, place, kind) - 1
        bins = (bits + 1) * levels
        total = torch.zeros(len(codes) * bins, dtype=torch.int64, device=place)
        offsets = torch.arange(len(codes), device=place)[:, None] * bins
        for items, words in _blocks(database, ITEMS_AT_ONCE):
            distance = _distances(signs, words, place, kind)
            shared = (
                (masks @ _bits(database_labels[items], place, kind).T).long().clamp_(max=levels - 1)
            )
            cells = distance.mul_(levels).add_(shared).add_(offsets)
            total += torch.bincount(cells.ravel(), minlength=len(total))
        counts[rows] = total.reshape(len(codes), bits + 1, levels).cpu().numpy()
    return counts


def search(
    query: Words, database: Words, k: int, device: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Find the k nearest rows at any k, ties by row as FAISS's flat index.

    Returns distances int32 [Q, k] and rows int64 [Q, k].

    The database goes by in blocks; the best k of the blocks so far stay. Raises ``InputError``
    without the device.
    """
    place = checked_device(device)
    kind = _precision(place, 64 * query.shape[1])
    found = np.empty((len(query), k), dtype=np.int64)
    for rows, codes in _blocks(query, QUERIES_AT_ONCE):
        signs = 2 * _bits(codes, place, kind) - 1
        best = torch.empty((len(codes), 0), dtype=torch.int64, device=place)
        for items, words in _blocks(database, ITEMS_AT_ONCE):
            # distance and row in one number: then no two are equal, and the order of the smallest
            # is the stable one
            row = torch.arange(items.start, items.start + len(words), device=place)
            keys = _distances(signs, words, place, kind).mul_(len(database)).add_(row)
            both = torch.cat([best, keys], dim=1)
            best = both.topk(min(k, both.shape[1]), dim=1, largest=False, sorted=True).values
        found[rows] = best.cpu().numpy()
    distance, row_of = np.divmod(found, len(database))
    return distance.astype(np.int32), row_of


def _distances(signs: Tensor, words: Words, place: torch.device, kind: torch.dtype) -> Tensor:
    product = signs @ (2 * _bits(words, place, kind) - 1).T
    # idle bits are equal in all codes: they add to the product and to the length alike
    return (signs.shape[1] - product.long()).div_(2, rounding_mode="floor")


def _bits(words: Words, place: torch.device, kind: torch.dtype) -> Tensor:
    octets = torch.from_numpy(np.ascontiguousarray(words).view(np.uint8)).to(place)
    ones = (octets[:, :, None] >> torch.arange(8, device=place, dtype=torch.uint8)) & 1
    return ones.reshape(len(words), -1).to(kind)


def _blocks(words: Words, size: int) -> Iterator[tuple[slice, Words]]:
    for start in range(0, len(words), size):
        rows = slice(start, min(start + size, len(words)))
        yield rows, words[rows]


def _precision(place: torch.device, length: int) -> torch.dtype:
    return torch.float16 if place.type == "cuda" and length <= 2048 else torch.float32


def checked_device(device: Any) -> torch.device:
    """A device of torch; raises ``InputError`` where this machine has none of that name."""
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}: give 'cpu' or 'cuda'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device is {device!r}, and torch sees no GPU here: leave it out, or use 'cpu'"
        )
    return place
