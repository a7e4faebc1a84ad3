"""Building inverted lists from codes on disk, in bounded memory.

Centres are k-means of bits, in two levels, so that a code meets a few hundred centres and not all
of them. Codes are assigned to the nearest centre, then placed. The number of lists that a search
looks into is measured on the codes themselves.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Words, code_words
from udmsh_pl.retrieval.lists import kernels
from udmsh_pl.retrieval.lists.inverted import PARTS, Facts, InvertedLists, write_facts

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


def build_lists(
    folder: Path,
    codes: Any,
    bits: int,
    recall: float = 0.99,
    lists: int | None = None,
    threads: int = 1,
    block: int = BLOCK,
    at_once: int = AT_ONCE,
) -> InvertedLists:
    """Write inverted lists of packed codes and open them.

    Held in memory are blocks of codes, the sample that centres are learned from, and what the
    system keeps of the mapped files; the folder appears when it is complete.

    Args:
        folder: a folder that is made, or replaced
        codes: uint8 [N, ceil(K / 8)]: an array, a map of a file, or anything with a length whose
            slices are such arrays
        bits: code length K
        recall: share of the hundred nearest codes that a search should find; decides how many lists
            it looks into, by trying it on some of the codes
        lists: about how many; None for four times the root of N
        threads: how many read, assign and place codes
        block: codes that a thread takes at a time
        at_once: codes of one word that are placed in one run over the collection

    Raises:
        InputError: no codes, more than 2^32, or a recall outside of 0 to 1.
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
        write_facts(part, Facts(bits, count, centres.centres.shape[1], 1, recall, 0.0))
        facts = choose_probes(InvertedLists(part), recall)
        write_facts(part, facts)
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
    starts = np.linspace(0, len(codes) - length, pieces).astype(np.int64)
    return code_words(
        np.concatenate([np.asarray(codes[start : start + length]) for start in starts.tolist()])
    )


def _place(
    part: Path, codes: Any, centres: Centres, threads: int, block: int, at_once: int
) -> None:
    """First pass: the list of each code, and how long lists are; then codes to their places, in as
    many passes as keep the places of one in memory.
    """
    count, (width, lists) = len(codes), centres.centres.shape
    starts = range(0, count, block)
    own = open_memmap(part / "own.npy", "w+", np.int32, (count,))

    def words_of(start: int) -> Words:
        return code_words(np.asarray(codes[start : start + block]))

    def first_pass(start: int) -> NDArray[np.int64]:
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
            kernels.scatter(words_of(start), start, lists_of, some, *places)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(second_pass, _ranges(ends, codes_at_once)))
    for array in (placed, rows):
        array.flush()
    (part / "own.npy").unlink()


def _ranges(ends: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Lists in runs of about ``size`` codes: where random writes fall on more pages than memory
    holds, each of them waits for the disk.
    """
    first, lists = 0, len(ends) - 1
    while first < lists:
        last = int(np.searchsorted(ends, ends[first] + size, "right")) - 1
        last = min(max(last, first + 1), lists)
        yield first, last
        first = last


@dataclass(frozen=True)
class Centres:
    """Centres of lists in two levels.

    Args:
        heads: uint64 [W, H], planes
        starts: int64 [H + 1], the first centre of each head
        centres: uint64 [W, L], planes, those of one head side by side
    """

    heads: Words
    starts: NDArray[np.int64]
    centres: Words

    def lists_of(self, codes: Words) -> NDArray[np.int32]:
        """The list of each code, uint64 [N, W]: that of the nearest centre of its nearest heads."""
        found = np.empty(len(codes), np.int32)
        near = min(NEAR, self.heads.shape[1])
        kernels.assign(codes, self.heads, self.starts, self.centres, near, found)
        return found


def fit_centres(sample: Words, lists: int, seed: int = 0) -> Centres:
    """Centres for about ``lists`` lists from a sample uint64 [n, W]; a head has the more centres,
    the more codes are its own.
    """
    generator = np.random.default_rng(seed)
    heads = _cluster(sample, max(1, math.isqrt(lists)), generator)
    own = _nearest(sample, heads)
    order = np.argsort(own, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=heads.shape[1]))
    parts, starts = [], [0]
    for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        members = sample[order[start:stop]]
        share = round(lists * len(members) / len(sample))
        if len(members):
            parts.append(_cluster(members, max(1, share), generator))
        starts.append(starts[-1] + (parts[-1].shape[1] if len(members) else 0))
    return Centres(heads, np.array(starts), np.ascontiguousarray(np.concatenate(parts, axis=1)))


def _cluster(codes: Words, count: int, generator: np.random.Generator) -> Words:
    """At most ``count`` centres of codes uint64 [n, W], as planes [W, count]: each bit of a centre
    is that of most of its codes.
    """
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


def _nearest(codes: Words, centres: Words) -> NDArray[np.int32]:
    whole = np.array([0, centres.shape[1]])
    found = np.empty(len(codes), np.int32)
    kernels.assign(codes, centres[:, :1], whole, centres, 1, found)
    return found


def choose_probes(lists: InvertedLists, recall: float) -> Facts:
    """The facts of ``lists`` with the least number of probes whose recall, less one standard error,
    is the wanted one, and with that recall.

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
