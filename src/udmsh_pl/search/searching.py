"""The two stages of a search: the nearest codes by Hamming distance, then their order by features.

Every code is looked at, or, where they are very many, those of a few inverted lists.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search import store
from udmsh_pl.search.encoder import Codes
from udmsh_pl.search.segment import Rows

if TYPE_CHECKING:
    from udmsh_pl.retrieval.lists import InvertedLists

SHORTLIST = 1000  # nearest codes that are ordered by their features
EXACT_BELOW = 1_000_000  # pictures; looking at that many codes takes some milliseconds
MOST_TIED = 10_000  # of equally near codes beyond those asked for
# of the codes in a likeness: more finds more at k = 100 and less at k = 1 (docs/choices.md)
CODE_SHARE = 0.2

Int8s = NDArray[np.int8]
Int64s = NDArray[np.int64]
Ranking = tuple[Int64s, Int64s, NDArray[np.float64]]


@dataclass(frozen=True)
class Match:
    """A picture of the index, with its code's distance in bits and its :func:`likeness`."""

    path: Path
    distance: int
    similarity: float
    row: int


class Searcher:
    """Both stages of a search over an open index, whose folder is ``path``."""

    def __init__(self, path: Path, manifest: store.Manifest, rows: Rows) -> None:
        self.path, self.manifest, self.rows = path, manifest, rows

    def search(self, query: Codes, k: int, rerank: int) -> Ranking:
        """Distances, rows and similarities of the k pictures most like the first of ``query``."""
        code, feature = query.codes[0], query.features[0]
        bits, count = self.manifest.bits, max(k, rerank)
        if self._lists is None:
            distances, rows = shortlist(code, self._codes, count)
        else:
            distances, rows = self._lists.search(code, count)
        if not rerank:
            distances, rows = distances[:k], rows[:k]
            return distances, rows, likeness(distances, bits, feature, self.rows.features[rows])
        found = reranked(distances, rows, bits, feature, self.rows.features[rows])
        return found[0][:k], found[1][:k], found[2][:k]

    def __str__(self) -> str:
        lists = self._lists
        return f"all {len(self.rows):,} codes" if lists is None else str(lists.facts)

    @cached_property
    def _codes(self) -> NDArray[np.uint8]:
        return np.asarray(self.rows.codes)

    @cached_property
    def _lists(self) -> "InvertedLists | None":
        if not self.manifest.lists:
            return None
        from udmsh_pl.retrieval.lists import InvertedLists

        try:
            return InvertedLists(self.path / self.manifest.lists)
        except InputError:
            if store.read_manifest(self.path).version == self.manifest.version:
                raise
            return None  # another process has written a newer index; the rows here are still whole


def with_lists(path: Path, manifest: store.Manifest) -> store.Manifest:
    """The manifest with inverted lists of a million codes or more, unless the recall is 1."""
    count = sum(one.rows - len(one.removed) for one in manifest.segments)
    if count < EXACT_BELOW or manifest.recall == 1:
        return replace(manifest, lists="")
    from udmsh_pl.retrieval.lists import build_lists

    name = f"lists-{manifest.version:06d}"
    codes, threads = store.read_rows(path, manifest).codes, os.cpu_count() or 1
    build_lists(path / name, codes, manifest.bits, manifest.recall, threads=threads)
    return replace(manifest, lists=name)


def shortlist(
    code: NDArray[np.uint8], codes: NDArray[np.uint8], count: int
) -> tuple[Int64s, Int64s]:
    """The ``count`` nearest of all codes, and of those as near as the last at most 10,000 more:
    distances and rows, nearest first, in the order of rows at a tie.

    Learned codes tie a lot (of 2,000 pictures, one has 14 others with its very code), and which of
    them came first in the index must not decide. No index is built: one search from the command
    line would wait for it longer.
    """
    distances = popcounts(code_words(codes) ^ code_words(code[None]))
    if count < len(distances):
        furthest = np.searchsorted(np.bincount(distances).cumsum(), count)
        rows = np.flatnonzero(distances <= furthest)
        rows = rows[np.argsort(distances[rows], kind="stable")][: count + MOST_TIED]
    else:
        rows = np.argsort(distances, kind="stable")
    return distances[rows], rows


def reranked(
    distances: Int64s, rows: Int64s, bits: int, feature: Int8s, features: Int8s
) -> Ranking:
    """A shortlist, int64 [n] each, in the order of its :func:`likeness` (the second stage of a
    search); at one likeness in the order of distances, then of rows.
    """
    alike = likeness(distances, bits, feature, features)
    order = np.lexsort((rows, distances, -alike))
    return distances[order], rows[order], alike[order]


def likeness(distances: Int64s, bits: int, feature: Int8s, features: Int8s) -> NDArray[np.float64]:
    """0.8 times the cosine of the features int8 [d] and [n, d] and 0.2 times that of the codes at
    those distances; of the codes alone where features have no length.

    Features rank the nearest picture best. Codes, learned from whole neighbourhoods, rank the
    nearest hundred best.
    """
    of_codes = 1 - 2 * distances / bits
    if not len(feature):
        return of_codes
    return (1 - CODE_SHARE) * cosines(feature, features) + CODE_SHARE * of_codes


def cosines(feature: Int8s, features: Int8s) -> NDArray[np.float64]:
    """Cosines of one feature int8 [d] with others int8 [n, d]; 0 where one of them is all zero."""
    one, many = feature.astype(np.float64), features.astype(np.float64)
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    return np.asarray(many @ one / np.where(lengths > 0, lengths, 1))


def unit(features: Int8s) -> NDArray[np.float32]:
    """Features int8 [n, d] of length 1; those that are all zero stay zero."""
    floats = features.astype(np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.asarray(floats / np.maximum(lengths, 1e-9), dtype=np.float32)
