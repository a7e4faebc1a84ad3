"""``InvertedLists``: the lists on disk, opened by mapping them."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import Bytes, Words, check_codes, code_words
from udmsh_pl.retrieval.lists import kernels
from udmsh_pl.safe.files import write_text

FACTS = "lists.json"
PARTS = ("centres.npy", "starts.npy", "codes.npy", "rows.npy")
FORMAT = 1
TIED = 10_000  # kept beyond twice the number that is asked for

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What ``lists.json`` says.

    Args:
        bits: code length K
        count: number of codes N
        lists: number of lists L
        probes: lists that a search looks into
        wanted: share of the nearest codes that it should find
        recall: share that it found of the nearest hundred of some of the codes
    """

    bits: int
    count: int
    lists: int
    probes: int
    wanted: float
    recall: float

    def __str__(self) -> str:
        return (
            f"{self.lists:,} inverted lists, {self.probes:,} looked into: recall@100 "
            f"{self.recall:.4f} on the codes themselves, {self.wanted} wanted"
        )


class InvertedLists:
    """Nearest codes by Hamming distance among many, found in a few lists.

    A code takes 8 bytes a started 64 bits and 4 of its row; they are mapped, not read.

    Args:
        folder: what :func:`udmsh_pl.retrieval.lists.build_lists` wrote

    Raises:
        InputError: no lists there, or files that do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, _read_facts(folder)
        self._pools: dict[int, ThreadPoolExecutor] = {}
        try:
            self.centres, self.starts = (
                np.load(folder / name, allow_pickle=False) for name in PARTS[:2]
            )
            # a plain view of the map: numba knows no memmap
            self.codes, self.rows = (
                np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))
                for name in PARTS[2:]
            )
            words, facts = -(-self.facts.bits // 64), self.facts
            shapes = [
                (self.centres, (words, facts.lists), np.uint64),
                (self.starts, (facts.lists + 1,), np.int64),
                (self.codes, (facts.count, words), np.uint64),
                (self.rows, (facts.count,), np.uint32),
            ]
            if any(part.shape != shape or part.dtype != kind for part, shape, kind in shapes):
                raise ValueError("an array of another shape")
            if self.starts[0] != 0 or self.starts[-1] != facts.count:
                raise ValueError("lists of other lengths")
            if (np.diff(self.starts) < 0).any():
                raise ValueError("lists of other lengths")
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{folder} is damaged ({error}); build the lists anew") from error

    def __len__(self) -> int:
        return self.facts.count

    def search(
        self, code: Bytes, count: int, probes: int | None = None, threads: int = 1
    ) -> tuple[Int64s, Int64s]:
        """Distances and rows of about the ``count`` nearest codes and of those that are as near as
        the last of them, nearest first, at one distance in the order of rows.

        Args:
            code: one packed code, uint8 [ceil(K / 8)]
            count: how many, at least 1
            probes: lists to look into; None for the number that was chosen
            threads: how many share the lists of this query

        Raises:
            InputError: the code has another length, or ``count`` or ``probes`` is below 1.
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

    def _look(
        self, words: Words, probes: int, count: int, threads: int
    ) -> tuple[NDArray[np.int32], Int64s]:
        order = kernels.nearest_lists(words, self.centres, probes)

        def look(part: Int64s) -> tuple[NDArray[np.int32], Int64s]:
            found: tuple[NDArray[np.int32], Int64s] = kernels.scan(
                words, part, self.starts, self.codes, self.rows, count, 2 * count + TIED
            )
            return found

        if threads == 1:
            return look(order)
        pool = self._pools.setdefault(threads, ThreadPoolExecutor(threads))
        parts = list(pool.map(look, (order[part::threads] for part in range(threads))))
        near, rows = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        return near, rows

    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in (*PARTS, FACTS))

    def sample(self, count: int, seed: int = 0) -> Iterator[Bytes]:
        """Some of the codes, packed."""
        places = np.random.default_rng(seed).integers(len(self), size=count)
        for place in np.sort(places).tolist():
            octets = self.codes[place : place + 1].view(np.uint8)[0]
            yield octets[: math.ceil(self.facts.bits / 8)]


def write_facts(folder: Path, facts: Facts) -> None:
    """Write ``lists.json``, the last file of the folder."""
    write_text(folder / FACTS, json.dumps({"format": FORMAT} | asdict(facts), indent=1) + "\n")


def _read_facts(folder: Path) -> Facts:
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
