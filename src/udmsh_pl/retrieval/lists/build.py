"""Inverted lists from codes on disk, in bounded memory: codes are assigned, then placed."""

import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Words, code_words
from udmsh_pl.retrieval.lists import kernels
from udmsh_pl.retrieval.lists.centres import fit_centres
from udmsh_pl.retrieval.lists.choose import choose_probes
from udmsh_pl.retrieval.lists.inverted import PARTS, Facts, InvertedLists, write_facts

BLOCK = 1 << 18  # codes a thread takes at a time
FEWEST, MOST = 16, 1 << 17  # lists
SAMPLE_A_LIST = 40  # codes that centres are learned from
MOST_CODES = 1 << 32  # a row takes four bytes
AT_ONCE = 1 << 27  # codes placed in a run over the collection: 1.6 GB, which stay in memory


def build_lists(
    folder: Path,
    codes: Any,
    bits: int,
    recall: float = 0.99,
    lists: int | None = None,
    threads: int = 1,
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
        _place(part, codes, centres.lists_of, centres.centres, threads)
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
    part: Path,
    codes: Any,
    lists_of: Callable[[Words], NDArray[np.int32]],
    centres: Words,
    threads: int,
) -> None:
    """First pass: the list of each code, and how long lists are; then codes to their places, in as
    many passes as keep the places of one in memory.
    """
    count, width = len(codes), centres.shape[0]
    starts = range(0, count, BLOCK)
    own = open_memmap(part / "own.npy", "w+", np.int32, (count,))

    def words_of(start: int) -> Words:
        return code_words(np.asarray(codes[start : start + BLOCK]))

    def first_pass(start: int) -> NDArray[np.int64]:
        found = lists_of(words_of(start))
        own[start : start + BLOCK] = found
        return np.bincount(found, minlength=centres.shape[1])

    lengths = np.zeros(centres.shape[1], np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for one in pool.map(first_pass, starts):
            lengths += one
    ends = np.concatenate([[0], np.cumsum(lengths)])
    np.save(part / PARTS[0], centres, allow_pickle=False)
    np.save(part / PARTS[1], ends, allow_pickle=False)
    placed = open_memmap(part / PARTS[2], "w+", np.uint64, (count, width))
    rows = open_memmap(part / PARTS[3], "w+", np.uint32, (count,))
    cursors, codes_at_once = ends[:-1].copy(), max(AT_ONCE // width // threads, 1)

    def second_pass(lists: tuple[int, int]) -> None:
        for start in starts:  # in the order of rows, so that a list keeps it
            block = np.asarray(own[start : start + BLOCK])
            kernels.scatter(
                words_of(start), start, block, lists, cursors, np.asarray(placed), np.asarray(rows)
            )

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
