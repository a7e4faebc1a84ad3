"""Searching a flat index on a GPU: by FAISS where it is built for one, else by torch."""

from __future__ import annotations

from importlib.metadata import distributions
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, code_words, popcounts
from udmsh_pl.retrieval.counting import cuda

Distances = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
FAISS_MOST = 2048  # neighbours that a search of FAISS on a GPU can give


def search(query: Bytes, database: Bytes, k: int, device: str) -> tuple[Distances, Rows]:
    """The k nearest rows of each query, ties by row: distances int32 [Q, k] and rows int64 [Q, k].

    Args:
        query: packed codes, uint8 [Q, B]
        database: packed codes, uint8 [N, B]
        k: at most N; FAISS takes 2,048, torch any
        device: a CUDA device of torch

    Raises:
        InputError: no such device, or a faiss-cpu that has overwritten faiss-gpu.
    """
    place = cuda.checked_device(device)
    if k <= FAISS_MOST and place.type == "cuda" and faiss_has_gpu():
        found = _faiss_search(query, database, k, place.index or 0)
        return in_order_of_rows(*found, query, database)
    return cuda.search(code_words(query), code_words(database), k, device)


def faiss_has_gpu() -> bool:
    """Whether this FAISS searches on a GPU.

    Raises:
        InputError: faiss-gpu is installed, but faiss-cpu, which has the same folder, came after it.
    """
    if hasattr(faiss, "StandardGpuResources"):
        return int(faiss.get_num_gpus()) > 0
    names = sorted({str(one.metadata["Name"]).lower() for one in distributions()})
    for_gpu = [name for name in names if name.startswith("faiss-gpu")]
    if for_gpu:
        # both removed first: of a library that either leaves behind Python loads faiss-cpu's
        raise InputError(
            f"faiss-cpu has overwritten {for_gpu[0]}, which has the same folder: run "
            f"`pip uninstall -y faiss-cpu {for_gpu[0]} && pip install {for_gpu[0]}`"
        )
    return False


def in_order_of_rows(
    distances: Distances, rows: Rows, query: Bytes, database: Bytes
) -> tuple[Distances, Rows]:
    """The k nearest with ties by row, from k nearest with ties in any order.

    FAISS on a GPU gives right distances, but of the items at the last one any that it met. Those
    are looked for again, row by row of the database.

    Args:
        distances: int32 [Q, k]
        rows: int64 [Q, k]
        query: packed codes, uint8 [Q, B]
        database: packed codes, uint8 [N, B]
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
