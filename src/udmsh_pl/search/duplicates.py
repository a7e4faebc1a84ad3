"""Groups of pictures that are copies of each other: candidates by code and feature, and by colours
that no turn changes, each checked on its pixels.

A learned code calls two sunsets alike, so it proposes and does not decide: two pictures are copies
when the details of their thumbnails lie on each other (:mod:`udmsh_pl.search.overlap`). *Ours*.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search.overlap import Details, Relation, overlap
from udmsh_pl.search.turned import turned_candidates

if TYPE_CHECKING:
    from udmsh_pl.search.index import ImageIndex

RADIUS = 24  # bits of 64 that copies may differ in; 22 were the most of 400 copies
NEIGHBOURS = 5  # nearest by feature
AXES = 128  # of the features: what is behind them tells fine differences, which copies do not have
LEAST_COSINE, CUT_COSINE = 0.5, 0.65  # of copies, and of those that are cut: .64 and .74 were least
ROWS_AT_ONCE = 1024  # compared with all
KEPT = 4096  # thumbnails' details kept in memory


@dataclass(frozen=True)
class Copy:
    """A picture of a group.

    Args:
        path: its file
        row: its row in the index
        relation: to the group's first picture, the one with the most pixels
        agreement: of their details, 0 to 1
    """

    path: Path
    row: int
    relation: Relation
    agreement: float


def find_groups(index: "ImageIndex", radius: int | None = None) -> list[list[Copy]]:
    """Groups of at least two copies, the largest group first; in each the largest picture first.

    Time grows with the square of the number of pictures: 10,000 take seconds, 100,000 minutes.

    Args:
        index: an open index
        radius: Hamming distance of candidates; None for three eighths of the bits

    Raises:
        InputError: the radius is negative.
    """
    if radius is not None and radius < 0:
        raise InputError(f"radius is {radius}: a distance is 0 or more; give --radius a number")
    reach = index.manifest.bits * RADIUS // 64 if radius is None else radius
    digests = index.rows.files["digest"]
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    family = _Families(len(index))
    for row, source in enumerate(first[same.ravel()].tolist()):
        family.join(row, source)

    @lru_cache(KEPT)
    def details(row: int) -> Details:
        return Details(index.thumbnail(row))

    rows = np.sort(first)
    thumbnails = (index.thumbnail(row) for row in rows.tolist())
    proposed = chain(
        candidates(index.rows.codes[rows], index.rows.features[rows][:, :AXES], reach),
        ((one, two, 0.0) for one, two in turned_candidates(thumbnails)),
    )
    for one, two, cosine in proposed:
        left, right = int(rows[one]), int(rows[two])
        if family.head(left) == family.head(right):
            continue
        if overlap(details(left), details(right), cosine >= CUT_COSINE).is_copy:
            family.join(left, right)
    groups = [_told(index, members, details) for members in family.all() if len(members) > 1]
    return sorted(groups, key=lambda group: (-len(group), str(group[0].path)))


def candidates(
    codes: NDArray[np.uint8], features: NDArray[np.int8], radius: int
) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows that may be copies, each once, with the cosine of their features.

    One is among the five nearest of the other by feature, with a cosine of at least 0.5, and their
    codes are within ``radius``.
    """
    words, count = code_words(codes), len(codes)
    unit = features.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    nearest = min(NEIGHBOURS + 1, count)  # a row is its own nearest
    seen: set[int] = set()
    for start in range(0, count, ROWS_AT_ONCE):
        cosines = unit[start : start + ROWS_AT_ONCE] @ unit.T
        order = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
        for place, others in enumerate(order):
            row = start + place
            near = popcounts(words[others] ^ words[row]) <= radius
            alike = cosines[place, others]
            for other, cosine in zip(others[near].tolist(), alike[near].tolist(), strict=True):
                pair = min(row, other) * count + max(row, other)
                if other != row and cosine >= LEAST_COSINE and pair not in seen:
                    seen.add(pair)
                    yield min(row, other), max(row, other), cosine


class _Families:
    """Disjoint sets of rows (union by the smaller head)."""

    def __init__(self, count: int) -> None:
        self.heads = list(range(count))

    def head(self, row: int) -> int:
        while self.heads[row] != row:
            self.heads[row] = self.heads[self.heads[row]]
            row = self.heads[row]
        return row

    def join(self, one: int, two: int) -> None:
        one, two = self.head(one), self.head(two)
        self.heads[max(one, two)] = min(one, two)

    def all(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for row in range(len(self.heads)):
            found.setdefault(self.head(row), []).append(row)
        return list(found.values())


def _told(index: "ImageIndex", members: list[int], look: Callable[[int], Details]) -> list[Copy]:
    files = index.rows.files
    ordered = sorted(
        members,
        key=lambda row: (
            -int(files["width"][row]) * int(files["height"][row]),
            -int(files["size"][row]),
            index.rows.names[row],
        ),
    )
    first = ordered[0]
    group = [Copy(index.path_of(first), first, "first", 1.0)]
    for row in ordered[1:]:
        relation: Relation = "exact"
        agreement = 1.0
        if (files["digest"][row] != files["digest"][first]).any():
            found = overlap(look(first), look(row))
            relation, agreement = found.relation, round(found.agreement, 3)
            if not found.is_copy:
                relation = "similar"
            elif relation == "recompressed" and (
                files["width"][row] != files["width"][first]
                or files["height"][row] != files["height"][first]
            ):
                relation = "resized"
        group.append(Copy(index.path_of(row), row, relation, agreement))
    return group
