"""Inverted lists of binary codes, for collections too large to look at every code of.

Each code lies in the list of its nearest centre; a search looks into the lists whose centres are
nearest to the query (as IVFADC without its residuals: Jégou et al., TPAMI 2011). The files are
mapped into memory, so that they may be larger than it.

They are built from codes on disk in bounded memory. Centres are k-means of bits, in two levels, so
that a code meets a few hundred centres and not all of them. Codes are assigned to the nearest
centre, then placed. The number of lists that a search looks into is measured on the codes.

The loops are compiled by numba. Centres come as planes of words, [W, L], so that one register holds
several centres; codes as rows, [N, W].
"""

# mypy: allow-untyped-decorators

import json
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, Words, check_codes, code_words
from udmsh_pl.retrieval.compiled import popcount, wide_vectors
from udmsh_pl.safe.files import write_text

FACTS = "lists.json"
PARTS = ("centres.npy", "starts.npy", "codes.npy", "rows.npy")
FORMAT = 1
TIED = 10_000  # kept beyond twice the number that is asked for

BLOCK = 1 << 18  # codes a thread takes at a time
FEWEST, MOST = 16, 1 << 17  # lists
SAMPLE_A_LIST = 40  # codes that centres are learned from
MOST_CODES = 1 << 32  # a row takes four bytes
AT_ONCE = 1 << 27  # codes placed in a run over the collection: 1.6 GB, which stay in memory

ROUNDS = 8  # of Lloyd's algorithm
NEAR = 4  # heads whose centres a code is compared with

QUERIES = 200  # codes of the collection that are searched for
MOST_DISTANCES = 100_000_000_000  # for the exact neighbours of these queries: about a minute
NEAREST = 100  # neighbours whose recall counts
STEP = 1.25  # from one number of probes that is tried to the next

TILE = 256  # codes whose distances are computed before one of them is looked at
FAR = 1 << 20  # more than any distance

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What ``lists.json`` says of the numbers of bits, codes and lists, and of a search."""

    bits: int
    count: int
    lists: int
    probes: int  # lists that it looks into
    wanted: float  # share of the nearest codes that it should find
    recall: float  # share that it found of the nearest hundred of some of the codes

    def __str__(self) -> str:
        return (
            f"{self.lists:,} inverted lists, {self.probes:,} looked into: recall@100 "
            f"{self.recall:.4f} on the codes themselves, {self.wanted} wanted"
        )

    def write(self, folder: Path) -> None:
        """Write ``lists.json``, the last file of the folder."""
        write_text(folder / FACTS, json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "Facts":
        """Read ``lists.json``; raises ``InputError`` if it is missing or damaged."""
        path = folder / FACTS
        if not path.is_file():
            raise InputError(f"{folder} holds no inverted lists; build them anew")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("format") != FORMAT:
                raise ValueError("of another format")
            facts = Facts(**plain)
            whole = [facts.bits, facts.count, facts.lists, facts.probes]
            if any(type(number) is not int or number < 1 for number in whole):
                raise ValueError("no number above 0")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}); build the lists anew") from error
        return facts


class InvertedLists:
    """Nearest codes by Hamming distance among many, found in a few lists.

    A code takes 8 bytes a started 64 bits and 4 of its row; they are mapped, not read. Raises
    ``InputError`` where ``folder`` has no lists of :func:`build_lists`, or files that do not belong
    together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, Facts.read(folder)
        self._pools: dict[int, ThreadPoolExecutor] = {}
        try:
            arrays = [np.load(folder / name, allow_pickle=False) for name in PARTS[:2]]
            arrays += [np.load(folder / name, "r", allow_pickle=False) for name in PARTS[2:]]
            # plain views: numba knows no memmap
            self.centres, self.starts, self.codes, self.rows = map(np.asarray, arrays)
            facts, words = self.facts, -(-self.facts.bits // 64)
            shapes = (words, facts.lists), (facts.lists + 1,), (facts.count, words), (facts.count,)
            kinds = np.uint64, np.int64, np.uint64, np.uint32
            if [(one.shape, one.dtype) for one in arrays] != [*zip(shapes, kinds, strict=True)]:
                raise ValueError("an array of another shape")
            ends = self.starts[0], self.starts[-1]
            if ends != (0, facts.count) or (np.diff(self.starts) < 0).any():
                raise ValueError("lists of other lengths")
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{folder} is damaged ({error}); build the lists anew") from error

    def __len__(self) -> int:
        return self.facts.count

    def search(
        self, code: Bytes, count: int, probes: int | None = None, threads: int = 1
    ) -> tuple[Int64s, Int64s]:
        """Distances and rows of about the ``count`` codes nearest to a packed one, uint8
        [ceil(K / 8)], and of those that are as near as the last of them, nearest first, at one
        distance in the order of rows.

        ``probes`` lists are looked into, None for the number that was chosen; ``threads`` share
        them. Raises ``InputError``: the code has another length, or a number is below 1.
        """
        if count < 1 or (probes is not None and probes < 1):
            raise InputError(f"count is {count}, probes {probes}: give numbers above 0")
        words = code_words(check_codes(code[None], self.facts.bits, "code"))[0]
        probes = min(probes or self.facts.probes, self.facts.lists)
        near, rows = self._look(words, probes, count, threads)
        while len(rows) < min(count, len(self)):  # these lists hold fewer
            probes = min(2 * probes, self.facts.lists)
            near, rows = self._look(words, probes, count, threads)
        sequence = np.lexsort((rows, near))
        if len(sequence) > count:
            within = int((near <= near[sequence[count - 1]]).sum())
            sequence = sequence[: min(within, count + TIED)]
        return near[sequence].astype(np.int64), rows[sequence]

    def _look(self, words: Words, probes: int, count: int, threads: int) -> tuple[Int32s, Int64s]:
        order = nearest_lists(words, self.centres, probes)

        def look(part: Int64s) -> tuple[Int32s, Int64s]:
            arrays = self.starts, self.codes, self.rows
            return scan(words, part, *arrays, count, 2 * count + TIED)  # type: ignore[no-any-return]

        if threads == 1:
            return look(order)
        pool = self._pools.setdefault(threads, ThreadPoolExecutor(threads))
        shares = (order[part::threads] for part in range(threads))
        near, rows = zip(*pool.map(look, shares), strict=True)
        return np.concatenate(near), np.concatenate(rows)

    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in (*PARTS, FACTS))

    def sample(self, count: int, seed: int = 0) -> Iterator[Bytes]:
        """Some of the codes, packed."""
        places = np.random.default_rng(seed).integers(len(self), size=count)
        for place in np.sort(places).tolist():
            yield self.codes[place : place + 1].view(np.uint8)[0, : -(-self.facts.bits // 8)]


def build_lists(
    folder: Path, codes: Any, bits: int, recall: float = 0.99, lists: int | None = None,
    threads: int = 1, block: int = BLOCK, at_once: int = AT_ONCE,
) -> InvertedLists:  # fmt: skip
    """Write inverted lists of packed codes and open them.

    Blocks of codes, the sample for the centres, and what the system keeps of the mapped files are
    in memory; the folder appears, or is replaced, when it is complete.

    Args:
        folder: where they are written
        codes: uint8 [N, ceil(K / 8)]: an array, a map of a file, or anything with a length whose
            slices are such arrays
        bits: code length K
        recall: share of the hundred nearest codes that a search should find; decides how many lists
            it looks into, by trying it on some of the codes
        lists: about how many; None for four times the root of N
        threads: how many read, assign and place codes
        block: codes that a thread takes at a time
        at_once: codes of one word that are placed in one run over the collection

    Raises ``InputError``: no codes, more than 2^32, or a recall outside of 0 to 1.
    """
    count = len(codes)
    if not 1 <= count <= MOST_CODES:
        raise InputError(f"{count:,} codes: inverted lists take 1 to 2^32; split them into shards")
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}: give a number above 0, at most 1")
    wanted = lists or lists_for(count)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        centres = fit_centres(_sample(codes, wanted * SAMPLE_A_LIST), wanted)
        _place(part, codes, centres, threads, block, at_once)
        Facts(bits, count, centres.centres.shape[1], 1, recall, 0.0).write(part)
        choose_probes(InvertedLists(part), recall).write(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return InvertedLists(folder)


def lists_for(count: int) -> int:
    """Lists for so many codes: a power of two near four times their root (*ours*)."""
    lists: int = 2 ** round(math.log2(4 * math.sqrt(count)))
    return min(max(lists, FEWEST), MOST, count)


def _sample(codes: Any, size: int) -> Words:
    """Codes of a few hundred blocks all over the collection."""
    if size >= len(codes):
        return code_words(np.asarray(codes[: len(codes)]))
    pieces = min(512, size)
    length = size // pieces
    starts = np.linspace(0, len(codes) - length, pieces).astype(np.int64).tolist()
    parts = [np.asarray(codes[start : start + length]) for start in starts]
    return code_words(np.concatenate(parts))


def _place(
    part: Path, codes: Any, centres: "Centres", threads: int, block: int, at_once: int
) -> None:
    """Write the arrays. First pass: the list of each code, and how long lists are; then codes to
    their places, in as many passes as keep the places of one in memory.
    """
    count, (width, lists) = len(codes), centres.centres.shape
    starts = range(0, count, block)
    own = open_memmap(part / "own.npy", "w+", np.int32, (count,))

    def words_of(start: int) -> Words:
        return code_words(np.asarray(codes[start : start + block]))

    def first_pass(start: int) -> Int64s:
        found = centres.lists_of(words_of(start))
        own[start : start + block] = found
        return np.bincount(found, minlength=lists)

    lengths = np.zeros(lists, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for one in pool.map(first_pass, starts):
            lengths += one
    ends = np.concatenate([[0], np.cumsum(lengths)])
    np.save(part / PARTS[0], centres.centres, allow_pickle=False)
    np.save(part / PARTS[1], ends, allow_pickle=False)
    placed = open_memmap(part / PARTS[2], "w+", np.uint64, (count, width))
    rows = open_memmap(part / PARTS[3], "w+", np.uint32, (count,))
    cursors, codes_at_once = ends[:-1].copy(), max(at_once // width // threads, 1)

    def second_pass(some: tuple[int, int]) -> None:
        for start in starts:  # in the order of rows, so that a list keeps it
            lists_of = np.asarray(own[start : start + block])
            places = cursors, np.asarray(placed), np.asarray(rows)
            scatter(words_of(start), start, lists_of, some, *places)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(second_pass, _ranges(ends, codes_at_once)))
    for array in (placed, rows):
        array.flush()
    (part / "own.npy").unlink()


def _ranges(ends: Int64s, size: int) -> Iterator[tuple[int, int]]:
    """Lists in runs of about ``size`` codes: random writes on too many pages wait for the disk."""
    first, lists = 0, len(ends) - 1
    while first < lists:
        last = int(np.searchsorted(ends, ends[first] + size, "right")) - 1
        last = min(max(last, first + 1), lists)
        yield first, last
        first = last


@dataclass(frozen=True)
class Centres:
    """Centres of lists in two levels."""

    heads: Words  # uint64 [W, H], planes
    starts: Int64s  # int64 [H + 1], the first centre of each head
    centres: Words  # uint64 [W, L], planes, those of one head side by side

    def lists_of(self, codes: Words) -> Int32s:
        """The list of each code, uint64 [N, W]: that of the nearest centre of its nearest heads."""
        found = np.empty(len(codes), np.int32)
        near = min(NEAR, self.heads.shape[1])
        assign(codes, self.heads, self.starts, self.centres, near, found)
        return found


def fit_centres(sample: Words, lists: int, seed: int = 0) -> Centres:
    """Centres for about ``lists`` lists from a sample uint64 [n, W]; heads share them by size."""
    generator = np.random.default_rng(seed)
    heads = _cluster(sample, max(1, math.isqrt(lists)), generator)
    own = _nearest(sample, heads)
    ends = np.cumsum(np.bincount(own, minlength=heads.shape[1]))
    parts = []
    for members in np.split(sample[np.argsort(own, kind="stable")], ends[:-1]):
        share = max(1, round(lists * len(members) / len(sample)))
        parts.append(_cluster(members, share, generator) if len(members) else heads[:, :0])
    starts = np.cumsum([0, *(part.shape[1] for part in parts)])
    return Centres(heads, starts, np.ascontiguousarray(np.concatenate(parts, axis=1)))


def _cluster(codes: Words, count: int, generator: np.random.Generator) -> Words:
    """At most ``count`` centres of codes uint64 [n, W], planes [W, count]: bits by majority."""
    first = generator.permutation(len(codes))[:count]
    centres = np.unique(codes[first], axis=0).T.copy()
    bits = np.unpackbits(codes.view(np.uint8).reshape(len(codes), -1), axis=1)
    for _ in range(ROUNDS if len(codes) > count > 1 or count == 1 else 0):
        own = _nearest(codes, centres)
        sizes = np.bincount(own, minlength=centres.shape[1])
        order = np.argsort(own, kind="stable")
        filled = np.flatnonzero(sizes)
        begins = (np.cumsum(sizes) - sizes)[filled]
        ones = np.add.reduceat(bits[order], begins, axis=0, dtype=np.int32)
        packed = np.packbits(2 * ones >= sizes[filled, None], axis=1)
        new = np.ascontiguousarray(packed).view(np.uint64)
        # a centre that lost all its codes starts anew at one of them
        lost = codes[generator.integers(len(codes), size=len(sizes) - len(filled))]
        centres = np.concatenate([new, lost]).T.copy()
    return centres


def _nearest(codes: Words, centres: Words) -> Int32s:
    return Centres(centres[:, :1], np.array([0, centres.shape[1]]), centres).lists_of(codes)


def choose_probes(lists: InvertedLists, recall: float) -> Facts:
    """Facts with the least number of probes whose recall, less one standard error, suffices.

    Exact answers come from looking into all lists. A code finds itself; that does not count. Where
    several codes are as near as the hundredth, any of them is right.
    """
    number = max(20, min(QUERIES, MOST_DISTANCES // len(lists)))
    queries = list(lists.sample(number))
    count = min(NEAREST + 1, len(lists))
    everything = lists.facts.lists
    furthest = [int(lists.search(code, count, everything)[0][count - 1]) for code in queries]
    probes = 1
    while True:
        found = []
        for code, far in zip(queries, furthest, strict=True):
            right = int((lists.search(code, count, probes)[0][:count] <= far).sum())
            found.append((right - 1) / max(count - 1, 1) if count > 1 else 1.0)
        mean, error = float(np.mean(found)), float(np.std(found) / np.sqrt(number))
        if mean - error >= recall or probes >= everything:
            return replace(lists.facts, probes=probes, recall=round(mean, 5), wanted=recall)
        probes = min(everything, max(probes + 1, int(probes * STEP)))


@njit(nogil=True, cache=True, boundscheck=False)
def to_planes(code: Any, planes: Any, start: int, stop: int, out: Any) -> None:
    """Distances of one code [W] to the columns ``start`` to ``stop`` of planes [W, L]."""
    wide_vectors()
    for j in range(stop - start):
        out[j] = 0
    for w in range(planes.shape[0]):
        word, plane = code[w], planes[w, start:stop]
        for j in range(stop - start):
            out[j] += np.int32(popcount(plane[j] ^ word))


@njit(nogil=True, cache=True, boundscheck=False)
def first_least(values: Any, count: int) -> int:
    """Place of the least of the first ``count`` values, the first at a tie."""
    least = values[0]
    for j in range(count):
        least = min(least, values[j])
    for j in range(count):
        if values[j] == least:
            return j
    return 0


@njit(nogil=True, cache=True, boundscheck=False)
def assign(codes: Any, heads: Any, starts: Any, centres: Any, near: int, out: Any) -> None:
    """Each code's nearest centre, [N], in its ``near`` nearest heads; see :class:`Centres`."""
    to_heads = np.empty(heads.shape[1], np.int32)
    to_own = np.empty(np.max(starts[1:] - starts[:-1]), np.int32)
    for i in range(len(codes)):
        to_planes(codes[i], heads, 0, heads.shape[1], to_heads)
        best, least = 0, FAR
        for _ in range(near):
            head = first_least(to_heads, len(to_heads))
            to_heads[head] = FAR
            start, stop = starts[head], starts[head + 1]
            if start == stop:
                continue
            to_planes(codes[i], centres, start, stop, to_own)
            j = first_least(to_own, stop - start)
            if to_own[j] < least:
                best, least = start + j, to_own[j]
        out[i] = best


@njit(nogil=True, cache=True, boundscheck=False)
def scatter(
    codes: Any, first: int, lists: Any, taken: Any, cursors: Any, out: Any, rows: Any
) -> None:
    """Write the codes [N, W] (rows ``first`` on) of the lists in ``taken`` at their cursors."""
    for i in range(len(codes)):
        if not taken[0] <= lists[i] < taken[1]:
            continue
        place = cursors[lists[i]]
        cursors[lists[i]] += 1
        for w in range(codes.shape[1]):
            out[place, w] = codes[i, w]
        rows[place] = first + i


@njit(nogil=True, cache=True, boundscheck=False)
def nearest_lists(code: Any, centres: Any, probes: int) -> Any:
    """The ``probes`` lists whose centres are nearest, nearest first."""
    lists = centres.shape[1]
    distances = np.empty(lists, np.int32)
    to_planes(code, centres, 0, lists, distances)
    places = np.zeros(64 * centres.shape[0] + 2, np.int64)
    for j in range(lists):
        places[distances[j] + 1] += 1
    for d in range(1, len(places)):
        places[d] += places[d - 1]
    order = np.empty(probes, np.int64)
    for j in range(lists):
        if places[distances[j]] < probes:
            order[places[distances[j]]] = j
        places[distances[j]] += 1
    return order


@njit(nogil=True, cache=True, boundscheck=False)
def scan(code: Any, order: Any, starts: Any, codes: Any, rows: Any, count: int, room: int) -> Any:
    """Distances and rows of the ``count`` nearest codes in the lists of ``order``, and of those as
    near as the last, in no order. ``room``, more than 2 * count, bounds how many of these.
    """
    wide_vectors()
    words = codes.shape[1]
    tile = np.empty(TILE, np.int32)
    kept = np.empty(room, np.int32)
    kept_rows = np.empty(room, np.int64)
    seen = np.zeros(64 * words + 1, np.int64)  # kept codes by distance
    size, within, limit = 0, 0, 64 * words  # within: kept codes no farther than limit
    for place in order:
        for start in range(starts[place], starts[place + 1], TILE):
            length = min(TILE, starts[place + 1] - start)
            part = codes[start : start + length]
            if words == 1:
                word, column = code[0], part[:, 0]
                for j in range(length):
                    tile[j] = np.int32(popcount(column[j] ^ word))
            else:
                for j in range(length):
                    distance = np.int32(0)
                    for w in range(words):
                        distance += np.int32(popcount(part[j, w] ^ code[w]))
                    tile[j] = distance
            least = tile[0]
            for j in range(length):
                least = min(least, tile[j])
            if least > limit:
                continue
            for j in range(length):
                if tile[j] > limit:
                    continue
                if size == room:
                    size, ties = 0, 0
                    for n in range(room):
                        ties += kept[n] == limit
                        # what is nearer than the limit is less than count, so this makes room
                        if kept[n] < limit or (kept[n] == limit and ties <= count):
                            kept[size], kept_rows[size] = kept[n], kept_rows[n]
                            size += 1
                    within -= seen[limit] - min(ties, count)
                    seen[limit] = min(ties, count)
                kept[size], kept_rows[size] = tile[j], rows[start + j]
                size += 1
                seen[tile[j]] += 1
                within += 1
                while within - seen[limit] >= count:
                    within -= seen[limit]
                    limit -= 1
    chosen = kept[:size] <= limit
    return kept[:size][chosen], kept_rows[:size][chosen]
