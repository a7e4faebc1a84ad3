"""``BinaryIndex``: one small interface over FAISS's binary indexes, and its file.

The file is a JSON line that says what it is, the ids, FAISS's bytes, and a checksum over all.
"""

import hashlib
import json
import math
import operator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, check_codes, check_rows
from udmsh_pl.safe.files import atomic_path
from udmsh_pl.safe.untrusted import file_size, reason_of

Kind = Literal["flat", "ivf", "hnsw", "multihash"]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int32]
Found = tuple[Distances, Ids]

# k from which on FAISS's counting search beats its heap, which slows down with k
COUNTING_FROM = 256
# what the counting search may take: (bits + 1) k 8 bytes a query
COUNTING_BYTES = 256 << 20

MAGIC = b"udmsh-pl binary index 1\n"
HEAD_BYTES = 65_536  # no honest head is longer

# least and most, both included; FAISS checks none: 0 links abort, 1 segfaults, flips below 0 never
# end
RANGES = {
    "bits": (1, 65_536), "lists": (1, 1 << 20), "probes": (1, 1 << 20), "links": (2, 512),
    "effort": (1, 100_000), "hashes": (1, 1024), "hash_bits": (1, 64), "flips": (0, 64),
    "k": (1, None), "radius": (0, None),
}  # fmt: skip
MOST_KEYS = 1 << 20  # that multihash may look up for one query


class BinaryIndex:
    """Nearest codes by Hamming distance.

    Args:
        bits: code length, 1 to 65,536
        kind: ``flat`` is exact, items at one distance in the order they were added; ``ivf``,
            ``hnsw`` and ``multihash`` search a part of the items
        lists: ivf: 1 to 2^20; None for the square root of the number of codes that are added first
        probes: ivf: lists searched, 1 to 2^20
        links: hnsw: neighbours a node, 2 to 512
        effort: hnsw: candidates kept while building and searching, 1 to 100,000
        hashes: multihash: number of tables, 1 to 1024
        hash_bits: multihash: bits a table, 1 to 64, of all together at most ``bits``; None for at
            most 16
        flips: multihash: bits that may differ inside a table's key, so many that a query asks for
            at most 2^20 keys
        device: "cpu"; flat also searches on a CUDA device of torch, at any k: with FAISS where it
            is built for GPUs and k is at most 2,048, else with torch

    Raises ``InputError``: an unknown kind, a device for another kind than flat, or a number out of
    range.

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
        self, bits: int, kind: Kind = "flat", lists: int | None = None, probes: int = 16,
        links: int = 32, effort: int = 128, hashes: int = 4, hash_bits: int | None = None,
        flips: int = 1, device: str = "cpu",
    ) -> None:  # fmt: skip
        bits, probes, links = whole("bits", bits), whole("probes", probes), whole("links", links)
        effort, hashes = whole("effort", effort), whole("hashes", hashes)
        flips = whole("flips", flips)
        lists = None if lists is None else whole("lists", lists)
        hash_bits = None if hash_bits is None else whole("hash_bits", hash_bits)
        if kind not in get_args(Kind):
            raise InputError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}")
        if device != "cpu" and kind != "flat":
            mend = "leave device out"
            raise InputError(f"device is {device!r}: only kind='flat' searches there; {mend}")
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
            tables, size = multihash_sizes(bits, hashes, hash_bits, flips)
            self._index = faiss.IndexBinaryMultiHash(width, tables, size)
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
        end = len(self) + len(packed)
        rows = np.arange(len(self), end) if ids is None else check_rows(ids, len(packed), "ids")
        if rows.min() < 0 or rows.max() > np.iinfo(np.int64).max:
            raise InputError("ids hold a negative or huge number: give rows, 0 or more")
        if self._index is None:
            self._index = self._trained(packed)
        self._index.add(packed)
        self.ids = np.concatenate([self.ids, rows.astype(np.int64)])

    def search(self, codes: Any, k: int) -> Found:
        """Find the k nearest items of each code.

        Returns distances int32 [Q, min(k, items)] and ids int64 of the same shape, nearest first.
        Where an inexact index finds fewer, distance and id are -1.
        """
        packed, k = self._checked(codes), min(whole("k", k), len(self))
        if not len(packed):
            return np.empty((0, k), dtype=np.int32), np.empty((0, k), dtype=np.int64)
        if self.device != "cpu":
            from udmsh_pl.retrieval import gpu

            distances, rows = gpu.search(packed, self.codes(), k, self.device)
        else:
            if self.kind == "flat":
                self._index.use_heap = k < COUNTING_FROM
                self._index.query_batch_size = max(1, COUNTING_BYTES // (8 * (self.bits + 1) * k))
            distances, rows = self._index.search(packed, k)
        distances, ids = (np.where(rows < 0, -1, found) for found in (distances, self.ids[rows]))
        return distances.astype(np.int32), ids

    def range_search(self, codes: Any, radius: int) -> list[Found]:
        """Find every item within ``radius`` (included), nearest first, then in order of addition.

        Gives ``(distances int32 [n], ids int64 [n])`` for each query. An hnsw index searches all
        its codes; ivf and multihash may miss items, as in :meth:`search`.
        """
        packed, radius = self._checked(codes), min(whole("radius", radius), self.bits)
        # FAISS leaves the radius itself out
        limits, distances, rows = self._flat().range_search(packed, radius + 1)
        found = []
        for some in map(slice, limits[:-1].astype(int), limits[1:].astype(int)):
            near, row = distances[some].astype(np.int32), rows[some]
            order = np.lexsort((row, near))
            found.append((near[order], self.ids[row[order]]))
        return found

    def codes(self) -> Bytes:
        """Codes of a flat or hnsw index in the order they were added, uint8 [N, ceil(bits / 8)]."""
        if self.kind not in ("flat", "hnsw"):
            raise InputError(f"a {self.kind} index does not keep codes in order: use flat or hnsw")
        content: Bytes = faiss.vector_to_array(self._flat().xb)
        return content.reshape(len(self), -1)

    def save(self, path: Path | str, model_hash: str = "") -> None:
        """Write one file with a checksum, whole or not at all; ``model_hash`` names the encoder."""
        if self._index is None or not len(self):
            raise InputError("the index is empty: add codes before saving it")
        head = Head(self.bits, len(self), self.kind, model_hash)
        write_index(Path(path), head, self.ids, faiss.serialize_index_binary(self._index))

    @classmethod
    def load(
        cls, path: Path | str, bits: int | None = None, model_hash: str | None = None,
        device: str = "cpu",
    ) -> "BinaryIndex":  # fmt: skip
        """Read what :meth:`save` wrote; ``bits`` and ``model_hash`` None take any.

        Raises ``InputError``: no such file, cut short or altered, another code length, or another
        model's index.
        """
        head, ids, octets = read_index(Path(path))
        if bits is not None and head.bits != bits:
            mend = f"set bits={head.bits}"
            raise InputError(f"{path} holds codes of {head.bits} bits, not {bits}: {mend}")
        if model_hash is not None and head.model_hash != model_hash:
            whose = f"{head.model_hash or 'not named'}, expected {model_hash}"
            mend = "build it anew with this model"
            raise InputError(f"{path} is the index of another model ({whose}): {mend}")
        index = cls(head.bits, kind=head.kind, device=device)  # type: ignore[arg-type]  # the file is checked
        index._index = faiss.deserialize_index_binary(octets)
        if (index._index.d, index._index.ntotal) != (8 * ((head.bits + 7) // 8), len(ids)):
            raise InputError(f"{path} does not hold what its head says: build the index anew")
        index.ids = ids
        return index

    def _checked(self, codes: Any) -> Bytes:
        if not len(self):
            raise InputError("the index is empty: add codes first")
        return check_codes(codes, self.bits, "codes")

    def _flat(self) -> Any:
        """FAISS's index; of hnsw the flat one that holds its codes."""
        if self.kind == "hnsw":
            return faiss.downcast_IndexBinary(self._index.storage)
        return self._index

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


def whole(name: str, value: Any) -> int:
    """A whole number; raises ``InputError`` if it is none, or out of the range of its name."""
    least, most = RANGES[name]
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}: give a whole number") from error
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        top = "" if most is None else f" and at most {most:,}"
        raise InputError(f"{name} is {value}: give a whole number, at least {least}{top}")
    return number


def multihash_sizes(bits: int, hashes: int, hash_bits: int | None, flips: int) -> tuple[int, int]:
    """Number of tables of a multihash index, and bits a table; raises ``InputError``."""
    tables = min(hashes, bits)
    size = hash_bits or min(16, bits // tables)
    if tables * size > bits:
        need = f"{tables} tables of {size} bits need codes of {tables * size}, not {bits}"
        raise InputError(f"hash_bits is {size}: {need}; give fewer hashes or hash_bits")
    keys = tables * sum(math.comb(size, count) for count in range(flips + 1))
    if flips > size or keys > MOST_KEYS:
        most = f"{size}, and so few that there are at most {MOST_KEYS:,} keys"
        need = f"that makes {keys:,} keys of {size} bits a query"
        raise InputError(f"flips is {flips}: {need}; give at most {most}")
    return tables, size


@dataclass(frozen=True)
class Head:
    """Code length, number of codes, kind of index, and the name of the codes' encoder."""

    bits: int
    count: int
    kind: str
    model_hash: str


def write_index(path: Path, head: Head, ids: Ids, octets: Bytes) -> None:
    """Write an index file, whole or not at all."""
    body = [np.ascontiguousarray(ids, dtype="<i8").tobytes(), octets.tobytes()]
    plain: dict[str, Any] = asdict(head) | {"bytes": len(body[1])}
    line = json.dumps(plain | {"sha256": _digest(plain, *body)}).encode() + b"\n"
    with atomic_path(path) as partial, partial.open("wb") as stream:
        for part in (MAGIC, line, *body):
            stream.write(part)


def read_index(path: Path) -> tuple[Head, Ids, Bytes]:
    """Read an index file and check every byte before FAISS sees one; raises ``InputError``.

    The checksum finds damage; it is no signature, so load only indexes from people you trust.
    """
    try:
        file_size(path)  # no limit: it is as large as what its owner indexed
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read this index ({reason_of(error)})") from error
    damaged = InputError(f"{path} is cut short or altered: build the index anew, or copy it again")
    if not content.startswith(MAGIC):
        if MAGIC.startswith(content[: len(MAGIC)]):
            raise damaged
        mend = "give a file that BinaryIndex.save wrote"
        raise InputError(f"{path} is not an index of udmsh-pl: {mend}")
    end = content.find(b"\n", len(MAGIC), len(MAGIC) + HEAD_BYTES)
    try:
        plain = json.loads(content[len(MAGIC) : max(end, 0)])
        given = plain.pop("sha256")
        head = Head(plain["bits"], plain["count"], plain["kind"], plain["model_hash"])
        whole_numbers = all(type(plain[name]) is int for name in ("bits", "count", "bytes"))
        split = end + 1 + 8 * head.count
        ids, octets = content[end + 1 : split], content[split:]
        complete = whole_numbers and len(content) == split + plain["bytes"]
        complete = complete and head.kind in get_args(Kind)
        complete = complete and given == _digest(plain, ids, octets)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    if not complete:
        raise damaged
    numbers = np.frombuffer(ids, dtype="<i8").astype(np.int64)
    return head, numbers, np.frombuffer(octets, dtype=np.uint8).copy()


def _digest(plain: dict[str, Any], *body: bytes) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for part in body:
        digest.update(part)
    return digest.hexdigest()
