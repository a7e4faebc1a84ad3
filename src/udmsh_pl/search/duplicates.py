"""Groups of pictures that are copies of the picture that is kept. *Ours*.

A code calls two sunsets alike, so it proposes and does not decide. Candidates are neighbours by
feature, by colours that no rotation changes, and by details that no change of colours hides. Of
those whose thumbnails agree (:mod:`udmsh_pl.search.overlap`) the files are compared
(:mod:`udmsh_pl.search.verification`): what differs in one place is ``similar`` and no copy.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from udmsh_pl.errors import InputError
from udmsh_pl.images.ahead import batched, in_order
from udmsh_pl.images.decode import decode
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search.encoder import bar
from udmsh_pl.search.overlap import SIDE as SQUARE
from udmsh_pl.search.overlap import (
    SURE,
    Details,
    Overlap,
    Placement,
    Relation,
    details_of,
    open_thumbnail,
    overlap,
    overlaps,
)
from udmsh_pl.search.pictures import digest_of, read_bytes
from udmsh_pl.search.searching import unit
from udmsh_pl.search.segment import FileFacts, Rows, unchanged
from udmsh_pl.search.verification import SIDE, largest_difference

RADIUS = 24  # bits of 64 that copies may differ in; 22 were the most of 400 copies
NEIGHBOURS = 5  # nearest by feature, and by colours
AXES = 128  # of the features: those behind them show fine differences, which copies do not have
LEAST_COSINE, CUT_COSINE = 0.5, 0.65  # of copies, and of those that are cut: .64 and .74 were least
QUERIES, BASE = 4096, 1 << 15  # rows compared at once
AT_ONCE = 64  # thumbnails decoded
ELECTORS = 16  # pictures of a set of copies that decide which of them is kept
LEVEL, LOST = 0.1, 0.02  # smaller differences in agreement and clipped share decide nothing
PAIRS = 128  # of them that fit into a processor's cache
GRID = 8  # cells of a side whose colours, and details, are compared
SHARPER = 2.5  # means of details, so that they fill a byte
# cosine of those means: at least .88 for 80 pictures and their uncut copies, at most .68 for 300
# different pictures
LEAST_PATTERN = 0.85
# root mean square of the difference in grey values: at most 2.3 for 400 pictures that were rotated,
# made smaller and saved anew; more than this for all pairs of 400 others
CLOSE = 5.0
_CORNER = [(down, right) for down in range(GRID // 2) for right in range(down + 1)]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Copy:
    """A picture of a group.

    Its relation is to the group's first picture, which is kept: ``link`` is the same file under
    another name, so its removal frees no space; ``similar`` differs in a part and is no copy.
    """

    path: Path
    row: int  # in the index
    relation: Relation
    agreement: float  # of their details, 0 to 1
    # both files were compared; else one cannot be read or has changed: only thumbnails agree
    verified: bool = True

    @property
    def is_copy(self) -> bool:
        """Whether it is another file with the first one's picture."""
        return self.relation not in ("first", "link", "similar")


def find_groups(
    rows: Rows, bits: int, path_of: Callable[[int], Path], radius: int | None = None,
    progress: bool = False,
) -> list[list[Copy]]:  # fmt: skip
    """Groups of at least two pictures, those with most copies first. In each the picture that is
    kept comes first: a file that is there, no link, with the most pixels. Every other one is
    compared with it. Memory grows by 4 KB a picture.

    ``radius`` is the Hamming distance of candidates, None for three eighths of the K bits; a
    negative one raises InputError. ``progress`` shows bars on stderr.
    """
    if radius is not None and radius < 0:
        raise InputError(f"radius is {radius}: a distance is 0 or more; give --radius a number")
    pictures, reach = _Pictures(rows, path_of), bits * RADIUS // 64 if radius is None else radius
    chosen = pictures.chosen
    signatures = np.empty((len(chosen), 3 * len(_CORNER)), np.float32)
    patterns = np.empty((len(chosen), GRID * GRID), np.int8)
    shown = bar if progress else lambda items, *_: items
    thumbnails = (rows.thumbnails[row] for row in shown(iter(chosen.tolist()), len(chosen), "look"))
    start = 0
    for some, details, lost in in_order(_seen, batched(thumbnails, AT_ONCE), 0):
        block = slice(start, start := start + len(lost))
        signatures[block], patterns[block] = some, patterns_of(details)
        pictures.planes[block], pictures.clipped[block] = details, lost
    near = candidates(rows.codes, rows.features, reach, chosen)
    pairs = [(one, two, cosine >= CUT_COSINE) for one, two, cosine in near]
    rotated = np.array(rotation_candidates(signatures), dtype=np.int64).reshape(-1, 2)
    alike, _ = nearest_pairs(patterns, np.arange(len(chosen)), LEAST_PATTERN)
    more = {(one, two) for one, two in chosen[np.concatenate([rotated, alike])].tolist()}
    pairs += [(*pair, False) for pair in sorted(more - {pair[:2] for pair in pairs})]
    pictures.compare_all(shown(iter(pairs), len(pairs), "compare"))
    groups = [*_groups_of_copies(pictures)]
    groups += _groups_of_similar(pictures, groups)

    def order(group: list[Copy]) -> tuple[int, int, str]:
        return -sum(one.is_copy for one in group), -len(group), str(group[0].path)

    return sorted(groups, key=order)


def candidates(
    codes: NDArray[np.uint8], features: NDArray[np.int8], radius: int, chosen: NDArray[np.int64]
) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows that may be copies, each once, with the cosine of their features: one is among
    the five nearest of the other by feature, with a cosine of at least 0.5, and their codes are
    within ``radius``. Features are compared in blocks: memory does not grow with them.

    Codes are uint8 [N, B], features int8 [N, d]; ``chosen``, int64 [n], are the rows to compare,
    ascending.
    """
    pairs, cosines = nearest_pairs(features, chosen, LEAST_COSINE)
    one, two = (code_words(np.asarray(codes[rows])) for rows in pairs.T)
    near = popcounts(one ^ two) <= radius
    for (first, second), cosine in zip(pairs[near].tolist(), cosines[near].tolist(), strict=True):
        yield first, second, cosine


def nearest_pairs(
    vectors: NDArray[np.int8], chosen: NDArray[np.int64], least: float
) -> tuple[NDArray[np.int64], Floats]:
    """Pairs of rows of int8 [N, d], each once, int64 [P, 2], and the cosines of their leading axes,
    float32 [P]: one is among the five nearest of the other, at ``least``.
    """
    import faiss  # slow to load

    def leading(start: int, size: int) -> Floats:
        return unit(np.asarray(vectors[chosen[start : start + size]])[:, :AXES])

    total = len(chosen)
    count = min(NEIGHBOURS + 1, total)  # each is its own nearest
    keys, found = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start in range(0, total, QUERIES):
        queries = leading(start, QUERIES)
        cosines, others = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), "i8")
        for first in range(0, total, BASE):
            base = leading(first, BASE)
            some = min(count, len(base))
            alike, places = faiss.knn(queries, base, some, metric=faiss.METRIC_INNER_PRODUCT)
            cosines, others = np.hstack([cosines, alike]), np.hstack([others, places + first])
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
            cosines, others = (np.take_along_axis(one, order, 1) for one in (cosines, others))
        own = np.broadcast_to(np.arange(start, start + len(queries))[:, None], others.shape)
        near = (cosines >= least) & (others != own)
        low, high = np.minimum(own, others)[near], np.maximum(own, others)[near]
        keys.append(low * total + high)
        found.append(cosines[near])
    unique, first_seen = np.unique(np.concatenate(keys), return_index=True)
    pairs = chosen[np.stack(np.divmod(unique, max(total, 1)), axis=1)]
    return pairs, np.concatenate(found)[first_seen]


def patterns_of(details: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 [P, 64]: means of 8 x 8 cells of :func:`details_of`, [P, 64, 64]; a grey copy has the
    same.
    """
    cells = details.reshape(-1, GRID, SQUARE // GRID, GRID, SQUARE // GRID)
    means = cells.mean((2, 4), dtype=np.float32).reshape(len(details), GRID * GRID)
    return np.asarray(np.rint(means * SHARPER).clip(-127, 127), dtype=np.int8)


def signatures_of(images: Sequence[Image.Image]) -> Floats:
    """Float32 [P, 30] of RGB pictures: colours of the ten cells of an 8 x 8 grid that rotations and
    mirrors leave different, each averaged over the eight ways to turn the grid.
    """
    small = [image.resize((GRID, GRID), Image.Resampling.BOX) for image in images]
    cells = np.stack([np.asarray(image, dtype=np.float32) for image in small])
    quarters = sum(np.rot90(cells, quarter, (1, 2)) for quarter in range(4))
    even = np.asarray(quarters + np.swapaxes(quarters, 1, 2)) / 8
    return np.concatenate([even[:, down, right] for down, right in _CORNER], axis=1)


def clipped(image: Image.Image) -> float:
    """Share of an RGB picture's values in clipped highlights."""
    return float((np.asarray(image) >= 252).mean())


def _seen(thumbnails: list[bytes]) -> tuple[Floats, NDArray[np.int8], list[float]]:
    """Signatures, details and clipped shares."""
    images = [open_thumbnail(one) for one in thumbnails]
    details = np.stack([details_of(image) for image in images])
    return signatures_of(images), details, [clipped(image) for image in images]


def rotation_candidates(signatures: Floats) -> list[tuple[int, int]]:
    """Pairs of places that may be rotated copies, each once: one is among the five nearest of the
    other by :func:`signatures_of`. A backbone sees another picture when one is rotated.
    """
    if len(signatures) < 2:
        return []
    reach = CLOSE * np.sqrt(signatures.shape[1])
    count = min(NEIGHBOURS + 1, len(signatures))  # each is its own nearest
    _, near = cKDTree(signatures).query(signatures, count, distance_upper_bound=reach)
    pairs = ((row, other) for row, others in enumerate(near.tolist()) for other in others)
    # the number of all stands for none
    return sorted({(min(pair), max(pair)) for pair in pairs if pair[1] not in (pair[0], len(near))})


class _File(NamedTuple):
    """Where a row's file is now."""

    is_link: bool  # a symbolic link
    key: tuple[int, int] | None  # device and inode; None if it cannot be reached
    unchanged: bool  # it seems to be what was indexed


class _Pictures:
    """The different contents among rows, each by the file that is best kept, and comparisons."""

    def __init__(self, rows: Rows, path_of: Callable[[int], Path]) -> None:
        self.rows, self.path_of, self.files = rows, path_of, np.asarray(rows.files)
        self.file = lru_cache(maxsize=None)(self._file)
        self.image = lru_cache(48)(self._image)
        self.ways: dict[tuple[int, int], Overlap] = {}  # of copies: a group asks for pairs again
        self.difference = lru_cache(1 << 16)(self._difference)
        self.details = lru_cache(256)(lambda row: Details(self.planes[self.places[row]]))
        contents: dict[bytes, list[int]] = {}
        for row, digest in enumerate(self.files["digest"]):
            contents.setdefault(digest.tobytes(), []).append(row)
        families = (
            sorted(family, key=self.rank) if len(family) > 1 else family
            for family in contents.values()
        )
        self.same = {first: others for first, *others in families}  # files with one content
        self.chosen = np.array(sorted(self.same), dtype=np.int64)
        self.places = {row: place for place, row in enumerate(self.chosen.tolist())}
        self.planes = np.empty((len(self.chosen), SQUARE, SQUARE), np.int8)
        self.clipped = np.empty(len(self.chosen))
        self.sets = DisjointSet(self.same)  # of copies
        self.similar: list[tuple[int, int]] = []

    def _file(self, row: int) -> _File:
        path = self.path_of(row)
        try:
            facts = path.stat()
        except (OSError, ValueError):
            return _File(False, None, False)
        [same] = unchanged([FileFacts.of(facts)], self.files[row : row + 1]).tolist()
        return _File(path.is_symlink(), (facts.st_dev, facts.st_ino), same)

    def rank(self, row: int) -> tuple[bool, bool, int, int, str]:
        """Sorts the file that is best kept first."""
        file = self.file(row)
        width, height, size = (int(self.files[row][name]) for name in ("width", "height", "size"))
        return file.key is None, file.is_link, -width * height, -size, self.rows.names[row]

    def _image(self, row: int) -> Image.Image | None:
        """The picture of a row, made smaller; None if its file is closed or has changed."""
        try:
            content = read_bytes(self.path_of(row))
            if digest_of(content) != self.files[row]["digest"].tobytes():
                return None
            image = decode(io.BytesIO(content))
        except InputError:
            return None
        image.thumbnail((2 * SIDE, 2 * SIDE), reducing_gap=3)
        return image

    def first(self, row: int) -> Copy:
        """A picture that is kept."""
        return Copy(self.path_of(row), row, "first", 1.0)

    def compare_all(self, pairs: Iterator[tuple[int, int, bool]]) -> None:
        """Note which pairs of rows, the smaller one first, are copies or similar; with each comes
        whether one picture may be cut out of the other.
        """

        def copies() -> Iterator[tuple[int, int, Overlap]]:
            for part, found in in_order(self._overlaps, batched(pairs, PAIRS)):
                for (one, two, cuts), way in zip(part, found, strict=True):
                    if way.is_copy and not self.sets.connected(one, two):
                        if cuts or way.agreement >= SURE:  # else a cut may agree better
                            self.ways[one, two] = way
                        yield one, two, way

        # few at a time: what they merge need not be compared
        for copy, *pair in in_order(lambda found: (self._copy(*found), *found[:2]), copies(), 0):
            if copy.is_copy:
                self.sets.merge(*pair)
            else:
                self.similar.append((pair[0], pair[1]))

    def _overlaps(
        self, pairs: list[tuple[int, int, bool]]
    ) -> tuple[list[tuple[int, int, bool]], list[Overlap]]:
        ones, others = (
            Details(self.planes[[self.places[pair[side]] for pair in pairs]]) for side in (0, 1)
        )
        return pairs, overlaps(ones, others, np.array([cuts for *_, cuts in pairs]))

    def way(self, first: int, row: int) -> Overlap:
        """The best way, also by cuts, to lay two pictures on each other, the smaller row first."""
        one, two = sorted((first, row))
        if (one, two) not in self.ways:
            self.ways[one, two] = overlap(self.details(one), self.details(two))
        return self.ways[one, two]

    def relation(self, first: int, row: int) -> Copy | None:
        """What ``row`` is to ``first``; None where their thumbnails differ."""
        way = self.way(first, row)
        return self._copy(first, row, way) if way.is_copy else None

    def _copy(self, first: int, row: int, way: Overlap) -> Copy:
        one, two = sorted((first, row))  # a pair is compared once, whichever is kept
        relation, shapes = way.relation, self.files[["width", "height"]][[first, row]]
        if relation == "recompressed" and shapes[0] != shapes[1]:
            relation = "resized"
        apart = self.difference(one, two, way.placement)
        if apart is not None and apart >= 1:
            relation = "similar"
        return Copy(self.path_of(row), row, relation, round(way.agreement, 3), apart is not None)

    def _difference(self, one: int, two: int, placement: Placement) -> float | None:
        """None where a file cannot be compared."""
        first, second = self.image(one), self.image(two)
        return largest_difference(first, second, placement) if first and second else None


def _groups_of_copies(pictures: _Pictures) -> Iterator[list[Copy]]:
    """Each picture that is kept and its direct copies."""
    for members in pictures.sets.subsets():
        if len(members) == 1 and not any(pictures.same[row] for row in members):
            continue
        rest = sorted(members, key=pictures.rank)
        while rest:
            first = _kept(pictures, rest)
            others = [row for row in rest if row != first]
            kept, rest = [*_of_content(pictures, pictures.first(first))], []
            for row in others:
                found = pictures.relation(first, row)
                if found is None or not found.is_copy:
                    rest.append(row)
                else:
                    kept += _of_content(pictures, found)
            kept = [*_with_links(pictures, kept)]
            if len(kept) > 1 and not pictures.file(first).is_link:
                yield kept


def _kept(pictures: _Pictures, rows: list[int]) -> int:
    """The row that is best kept. Among files of as many pixels it is the one that agrees best with
    the others, since a cut of a picture is no copy of its mirrored one; of several such files, the
    largest of those with the fewest clipped highlights.
    """
    some = rows[:ELECTORS]
    best, *_ = ranks = [pictures.rank(row)[:3] for row in some]
    equal = [*compress(some, (rank == best for rank in ranks))]
    if len(equal) == 1 or len(rows) == 2:
        return rows[0]

    def agreement(row: int) -> float:
        found = (pictures.way(row, one) for one in some if one != row)
        return sum(one.agreement for one in found if one.is_copy)

    agreements = [agreement(row) for row in equal]
    good = [*compress(equal, (one >= max(agreements) - LEVEL for one in agreements))]
    lost = pictures.clipped[[pictures.places[row] for row in good]]
    return good[int(np.argmax(lost <= lost.min() + LOST))]


def _of_content(pictures: _Pictures, copy: Copy) -> Iterator[Copy]:
    """A picture and the files with its very bytes."""
    yield copy
    relation: Relation = "exact" if copy.relation == "first" else copy.relation
    known = copy.verified and pictures.file(copy.row).unchanged
    for row in pictures.same[copy.row]:
        verified = known and pictures.file(row).unchanged
        yield Copy(pictures.path_of(row), row, relation, copy.agreement, verified)


def _with_links(pictures: _Pictures, group: Iterable[Copy]) -> Iterator[Copy]:
    """The group; what is a link, or another name of a file that was there before, says so."""
    seen: set[tuple[int, int] | None] = set()
    for copy in group:
        is_link, key, _ = pictures.file(copy.row)
        named = copy.relation != "first" and (is_link or (key is not None and key in seen))
        yield replace(copy, relation="link") if named else copy
        seen.add(key)


def _groups_of_similar(pictures: _Pictures, groups: list[list[Copy]]) -> list[list[Copy]]:
    """Groups of similar pictures without copies; the others go behind the copies in theirs."""
    of_first = {group[0].row: group for group in groups}
    listed = {copy.row for group in groups for copy in group}
    more: list[list[Copy]] = []
    for pair in pictures.similar:
        first, row = sorted(pair, key=lambda one: (one not in of_first, pictures.rank(one)))
        if row in of_first or pictures.file(row).is_link:
            continue
        if first not in of_first:
            if first in listed or row in listed or pictures.file(first).is_link:
                continue
            of_first[first] = [pictures.first(first)]
            more.append(of_first[first])
        group = of_first[first]
        found = pictures.relation(first, row)
        if found is not None and all(copy.row != row for copy in group):
            group.append(found)
        listed |= {first, row}
    return [group for group in more if len(group) > 1]
