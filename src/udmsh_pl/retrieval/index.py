"""One small interface over FAISS's binary indexes; ids are dataset rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, check_codes, to_numpy
from udmsh_pl.retrieval.io import index_file

Kind = Literal["flat", "ivf", "hnsw", "multihash"]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int32]
Found = tuple[Distances, Ids]

# k from which on FAISS's counting search beats its heap, which slows down with k
COUNTING_FROM = 256
# what the counting search may take: (bits + 1) k 8 bytes a query
COUNTING_BYTES = 256 << 20


class BinaryIndex:
    """Nearest codes by Hamming distance.

    Args:
        bits: code length, 1 or more (codes are padded with zeros to whole bytes, which leaves
            distances as they are)
        kind: ``flat`` is exact, items at one distance in the order they were added; ``ivf``,
            ``hnsw`` and ``multihash`` search a part of the items
        lists: ivf: number of lists; None: the square root of the number of codes first added
        probes: ivf: lists searched
        links: hnsw: neighbours a node
        effort: hnsw: candidates kept while building and searching
        hashes: multihash: number of tables
        hash_bits: multihash: bits a table, at most 16 if not given
        flips: multihash: bits that may differ inside a table's key
        device: "cpu"; flat also searches on a CUDA device of torch, at any
            k: with FAISS where it is built for GPUs and k is at most 2,048, else with torch

    Example:
        >>> from udmsh_pl.retrieval import BinaryIndex, pack_codes
        >>> index = BinaryIndex(bits=4)
        >>> index.add(pack_codes([[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, -1]]), ids=[10, 20, 30])
        >>> distances, ids = index.search(pack_codes([[1, 1, 1, 1]]), k=2)
        >>> distances.tolist(), ids.tolist()
        ([[0, 1]], [[10, 30]])
        >>> [(distances, ids)] = index.range_search(pack_codes([[1, 1, 1, 1]]), radius=4)
        >>> distances.tolist(), ids.tolist()
        ([0, 1, 4], [10, 30, 20])
    """

    def __init__(
        self,
        bits: int,
        kind: Kind = "flat",
        lists: int | None = None,
        probes: int = 16,
        links: int = 32,
        effort: int = 128,
        hashes: int = 4,
        hash_bits: int | None = None,
        flips: int = 1,
        device: str = "cpu",
    ) -> None:
        if bits < 1:
            raise InputError(f"bits is {bits}: a code has at least one bit")
        if kind not in get_args(Kind):
            raise InputError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}")
        if device != "cpu" and kind != "flat":
            raise InputError(
                f"device is {device!r}: only kind='flat' searches there; leave device out"
            )
        self.bits, self.kind, self.device = bits, kind, device
        self.ids: Ids = np.empty(0, dtype=np.int64)
        self._lists, self._probes = lists, probes
        width = 8 * ((bits + 7) // 8)
        self._index: Any = None
        if kind == "flat":
            self._index = faiss.IndexBinaryFlat(width)
        elif kind == "hnsw":
            self._index = faiss.IndexBinaryHNSW(width, links)
            self._index.hnsw.efConstruction = self._index.hnsw.efSearch = effort
        elif kind == "multihash":
            tables = min(hashes, bits)
            self._index = faiss.IndexBinaryMultiHash(
                width, tables, hash_bits or min(16, bits // tables)
            )
            self._index.nflip = flips

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, codes: Any, ids: Any = None) -> None:
        """Add packed codes, uint8 [N, ceil(bits / 8)]; ``ids`` int [N], by default the next rows.

        The first codes added to an ivf index also train its lists.
        """
        packed = check_codes(codes, self.bits, "codes")
        if not len(packed):
            return
        rows = (
            np.arange(len(self), len(self) + len(packed)) if ids is None else to_numpy(ids, "ids")
        )
        if rows.shape != (len(packed),) or rows.dtype.kind not in "iu":
            raise InputError(
                f"ids have shape {list(rows.shape)}, type {rows.dtype}: give {len(packed)} whole "
                "numbers"
            )
        if self._index is None:
            self._index = self._trained(packed)
        self._index.add(packed)
        self.ids = np.concatenate([self.ids, rows.astype(np.int64)])

    def search(self, codes: Any, k: int) -> Found:
        """Find the k nearest items of each code.

        Returns:
            distances int32 [Q, min(k, items)] and ids int64 of the same shape, nearest first. Where
            an inexact index finds fewer, distance and id are -1.
        """
        packed = check_codes(codes, self.bits, "codes")
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one item")
        if not len(self):
            raise InputError("the index is empty: add codes first")
        k = min(k, len(self))
        if not len(packed):
            return np.empty((0, k), dtype=np.int32), np.empty((0, k), dtype=np.int64)
        if self.device != "cpu":
            from udmsh_pl.retrieval import gpu_search

            distances, rows = gpu_search.search(packed, self.codes(), k, self.device)
        else:
            if self.kind == "flat":
                self._index.use_heap = k < COUNTING_FROM
                self._index.query_batch_size = max(1, COUNTING_BYTES // (8 * (self.bits + 1) * k))
            distances, rows = self._index.search(packed, k)
        missing = rows < 0
        return np.where(missing, -1, distances).astype(np.int32), np.where(
            missing, -1, self.ids[rows]
        )

    def range_search(self, codes: Any, radius: int) -> list[Found]:
        """Find every item within ``radius`` (included), nearest first, then in order of addition.

        Returns one ``(distances int32 [n], ids int64 [n])`` a query. An hnsw index searches all its
        codes; ivf and multihash may miss items, as in :meth:`search`.
        """
        packed = check_codes(codes, self.bits, "codes")
        if radius < 0:
            raise InputError(f"radius is {radius}: a distance is 0 or more")
        if not len(self):
            raise InputError("the index is empty: add codes first")
        index: Any = (
            faiss.downcast_IndexBinary(self._index.storage) if self.kind == "hnsw" else self._index
        )
        # FAISS leaves the radius itself out
        limits, distances, rows = index.range_search(packed, radius + 1)
        found = []
        for start, stop in zip(limits[:-1].astype(int), limits[1:].astype(int), strict=True):
            near, row = distances[start:stop].astype(np.int32), rows[start:stop]
            order = np.lexsort((row, near))
            found.append((near[order], self.ids[row[order]]))
        return found

    def codes(self) -> Bytes:
        """Codes of a flat or hnsw index in the order they were added, uint8 [N, ceil(bits / 8)]."""
        if self.kind not in ("flat", "hnsw"):
            raise InputError(f"a {self.kind} index does not keep codes in order: use flat or hnsw")
        index: Any = (
            faiss.downcast_IndexBinary(self._index.storage) if self.kind == "hnsw" else self._index
        )
        return np.asarray(faiss.vector_to_array(index.xb), dtype=np.uint8).reshape(len(self), -1)

    def save(self, path: Path | str, model_hash: str = "") -> None:
        """Write one file with a checksum, whole or not at all; ``model_hash`` names the encoder."""
        if self._index is None or not len(self):
            raise InputError("the index is empty: add codes before saving it")
        head = index_file.Head(self.bits, len(self), self.kind, model_hash)
        index_file.write(Path(path), head, self.ids, faiss.serialize_index_binary(self._index))

    @classmethod
    def load(
        cls,
        path: Path | str,
        bits: int | None = None,
        model_hash: str | None = None,
        device: str = "cpu",
    ) -> BinaryIndex:
        """Read what :meth:`save` wrote.

        ``bits`` and ``model_hash`` are what the caller expects; None takes any.

        Raises:
            InputError: no such file, cut short or altered, another code length, or another model's
                index.
        """
        head, ids, octets = index_file.read(Path(path))
        if bits is not None and head.bits != bits:
            raise InputError(
                f"{path} holds codes of {head.bits} bits, not {bits}: set bits={head.bits}"
            )
        if model_hash is not None and head.model_hash != model_hash:
            raise InputError(
                f"{path} is the index of another model ({head.model_hash or 'not named'}, expected "
                f"{model_hash}): build it anew with this model"
            )
        index = cls(head.bits, kind=head.kind, device=device)  # type: ignore[arg-type]  # the file is checked
        index._index = faiss.deserialize_index_binary(octets)
        index.ids = ids
        return index

    def _trained(self, packed: Bytes) -> Any:
        lists = min(self._lists or math.isqrt(len(packed)) or 1, len(packed))
        width = 8 * packed.shape[1]
        coarse: Any = faiss.IndexBinaryFlat(width)
        index = faiss.IndexBinaryIVF(coarse, width, lists)
        index.own_fields = True
        coarse.this.disown()  # the ivf index frees it
        index.nprobe = min(self._probes, lists)
        index.cp.min_points_per_centroid = 1  # small sets train without a warning
        # a quarter of FAISS's own: a million codes train in seconds
        index.cp.max_points_per_centroid = 64
        index.cp.niter = 10
        index.train(packed)
        return index


def search_shards(shards: Sequence[BinaryIndex], codes: Any, k: int) -> Found:
    """Search indexes that hold parts of one database: the k nearest of all, earlier shards first.

    With flat shards of consecutive rows and their ids, the answer is that of one flat index.
    """
    filled = [shard for shard in shards if len(shard)]
    if not filled:
        raise InputError("there are no items in any shard: add codes first")
    parts = [shard.search(codes, k) for shard in filled]
    distances, ids = (np.concatenate([part[side] for part in parts], axis=1) for side in (0, 1))
    far = np.where(ids < 0, np.iinfo(np.int32).max, distances)
    order = np.argsort(far, axis=1, kind="stable")[:, : min(k, sum(map(len, filled)))]
    return np.take_along_axis(distances, order, 1).astype(np.int32), np.take_along_axis(
        ids, order, 1
    ).astype(np.int64)
