"""Counting and searching on a GPU: the same whole numbers as on the processor.

In torch, codes become rows of -1/+1, so that one matrix product gives all distances of a block:
d = (bits - u . v) / 2. Products of signs in half precision with float32 sums are exact up to 2^11
bits; longer codes are multiplied in float32. FAISS searches where it is built for GPUs.
"""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, WordArrays, Words, code_words, popcounts

Distances = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

# distances that are there at once: 64 x 2^18 of them are 128 MB as int64
QUERIES_AT_ONCE = 64
ITEMS_AT_ONCE = 1 << 18
FAISS_MOST = 2048  # neighbours that a search of FAISS on a GPU can give


def search(query: Bytes, database: Bytes, k: int, device: str) -> tuple[Distances, Rows]:
    """The k nearest rows of each query, ties by row: distances int32 [Q, k] and rows int64 [Q, k].

    Codes are packed, uint8 [Q, B] and [N, B], and k is at most N; FAISS takes 2,048, torch any.
    Raises ``InputError`` without such a device, and as :func:`faiss_has_gpu`.
    """
    place = checked_device(device)
    if faiss_serves(k, place):
        found = _faiss_search(query, database, k, place.index or 0)
        return in_order_of_rows(*found, query, database)
    return torch_search(code_words(query), code_words(database), k, device)


def faiss_serves(k: int, place: torch.device) -> bool:
    """Whether FAISS searches for k neighbours on this device; raises as :func:`faiss_has_gpu`."""
    return k <= FAISS_MOST and place.type == "cuda" and faiss_has_gpu()


def faiss_has_gpu() -> bool:
    """Whether this FAISS searches on a GPU.

    Raises ``InputError`` where faiss-cpu, which has the same folder, has overwritten faiss-gpu.
    """
    if hasattr(faiss, "StandardGpuResources"):
        return int(faiss.get_num_gpus()) > 0
    names = {str(one.metadata["Name"]).lower() for one in importlib.metadata.distributions()}
    for name in sorted(name for name in names if name.startswith("faiss-gpu")):
        # remove both first: else Python may load faiss-cpu's library from what is left
        raise InputError(
            f"faiss-cpu has overwritten {name}, which has the same folder: run "
            f"`pip uninstall -y faiss-cpu {name} && pip install {name}`"
        )
    return False


def in_order_of_rows(
    distances: Distances, rows: Rows, query: Bytes, database: Bytes
) -> tuple[Distances, Rows]:
    """The k nearest with ties by row, from k nearest with ties in any order: see :func:`search`.

    FAISS on a GPU gives right distances, but arbitrary items at the k-th distance. These are
    searched again, in the order of rows.
    """
    order = np.lexsort((rows, distances), axis=1)
    distances = np.take_along_axis(distances, order, 1)
    rows = np.take_along_axis(rows, order, 1)
    k = rows.shape[1]
    if k < len(database):
        words, codes = code_words(database), code_words(query)
        for number, nearest in enumerate(distances):
            first = int(np.searchsorted(nearest, nearest[-1]))
            tied = np.flatnonzero(popcounts(words ^ codes[number]) == nearest[-1])
            rows[number, first:] = tied[: k - first]
    return distances, rows


def _faiss_search(query: Bytes, database: Bytes, k: int, number: int) -> tuple[Distances, Rows]:
    config: Any = faiss.GpuIndexBinaryFlatConfig()
    config.device = number
    resources: Any = faiss.StandardGpuResources()  # must outlive the index
    index: Any = faiss.GpuIndexBinaryFlat(resources, 8 * database.shape[1], config)
    index.add(database)
    distances, rows = index.search(query, k)
    return distances, rows


def count_grades(
    words: WordArrays, bits: int, levels: int, device: str, items_at_once: int = ITEMS_AT_ONCE
) -> npt.NDArray[np.int64]:
    """Count as ``counting.count_grades`` does, ``items_at_once`` of the database at a time.

    Raises ``InputError`` without such a device.
    """
    query, database, query_labels, database_labels = words
    place = checked_device(device)
    kind = _precision(place, max(bits, 64 * query_labels.shape[1]))
    counts = np.empty((len(query), bits + 1, levels), dtype=np.int64)
    bins = (bits + 1) * levels
    for rows, codes in _blocks(query, QUERIES_AT_ONCE):
        masks = _bits(query_labels[rows], place, kind)
        signs = 2 * _bits(codes, place, kind) - 1
        total = torch.zeros(len(codes) * bins, dtype=torch.int64, device=place)
        offsets = torch.arange(len(codes), device=place)[:, None] * bins
        for items, part in _blocks(database, items_at_once):
            shared = (masks @ _bits(database_labels[items], place, kind).T).long()
            distance = _distances(signs, part, place, kind)
            cells = distance.mul_(levels).add_(shared.clamp_(max=levels - 1)).add_(offsets)
            total += torch.bincount(cells.ravel(), minlength=len(total))
        counts[rows] = total.reshape(len(codes), bits + 1, levels).cpu().numpy()
    return counts


def torch_search(
    query: Words, database: Words, k: int, device: str, items_at_once: int = ITEMS_AT_ONCE
) -> tuple[Distances, Rows]:
    """Find the k nearest rows as :func:`search` does, at any k, from uint64 words.

    The database goes by in blocks; the best k of the blocks so far stay.
    """
    place = checked_device(device)
    kind = _precision(place, 64 * query.shape[1])
    found = np.empty((len(query), k), dtype=np.int64)
    for rows, codes in _blocks(query, QUERIES_AT_ONCE):
        signs = 2 * _bits(codes, place, kind) - 1
        best = torch.empty((len(codes), 0), dtype=torch.int64, device=place)
        for items, words in _blocks(database, items_at_once):
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
        mend = "leave it out, or use 'cpu'"
        raise InputError(f"device is {device!r}, and torch sees no GPU here: {mend}")
    return place
