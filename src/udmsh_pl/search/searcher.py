"""Answers queries over the rows of an index: every code is looked at, or, where they are very many,
those of a few inverted lists.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search import nearest, store
from udmsh_pl.search.encoder import Codes
from udmsh_pl.search.segment import Rows

if TYPE_CHECKING:
    from udmsh_pl.retrieval.lists import InvertedLists

EXACT_BELOW = 1_000_000  # pictures; looking at that many codes takes some milliseconds

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """A picture that was found.

    Args:
        path: its file
        distance: Hamming distance of the codes
        similarity: of codes and re-rank features, see :func:`udmsh_pl.search.nearest.likeness`
        row: its row in the index
    """

    path: Path
    distance: int
    similarity: float
    row: int


class Searcher:
    """Both stages of a search over an open index.

    Args:
        path: the index's folder
        manifest: what it consists of
        rows: its rows
    """

    def __init__(self, path: Path, manifest: store.Manifest, rows: Rows) -> None:
        self.path, self.manifest, self.rows = path, manifest, rows

    def search(
        self, query: Codes, k: int, rerank: int
    ) -> tuple[Int64s, Int64s, NDArray[np.float64]]:
        """Distances, rows and similarities of the k pictures most like the first of ``query``, see
        :meth:`udmsh_pl.search.ImageIndex.search`.
        """
        distances, rows = self._shortlist(query.codes[0], max(k, rerank))
        bits, feature = self.manifest.bits, query.features[0]
        if rerank:
            features = self.rows.features[rows]
            distances, rows, alike = nearest.reranked(distances, rows, bits, feature, features)
            return distances[:k], rows[:k], alike[:k]
        distances, rows = distances[:k], rows[:k]
        return distances, rows, nearest.likeness(distances, bits, feature, self.rows.features[rows])

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

    def _shortlist(self, code: NDArray[np.uint8], count: int) -> tuple[Int64s, Int64s]:
        if self._lists is None:
            return nearest.shortlist(code, self._codes, count)
        return self._lists.search(code, count)


def with_lists(path: Path, manifest: store.Manifest) -> store.Manifest:
    """The manifest with inverted lists of its codes if it has a million or more.

    Where all of the nearest are wanted (a recall of 1), every code is looked at.
    """
    count = sum(one.rows - len(one.removed) for one in manifest.segments)
    if count < EXACT_BELOW or manifest.recall == 1:
        return replace(manifest, lists="")
    from udmsh_pl.retrieval.lists import build_lists

    name = f"lists-{manifest.version:06d}"
    codes = store.read_rows(path, manifest).codes
    threads = os.cpu_count() or 1
    build_lists(path / name, codes, manifest.bits, manifest.recall, threads=threads)
    return replace(manifest, lists=name)
