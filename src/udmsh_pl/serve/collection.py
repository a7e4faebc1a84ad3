"""The index that is served: searched by many threads, and opened again when it has changed."""

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search import Codes, ImageIndex, Match
from udmsh_pl.search.overlap import Details, overlap
from udmsh_pl.search.pictures import Picture, digest_of, read_bytes
from udmsh_pl.search.searching import SHORTLIST, likeness
from udmsh_pl.search.store import MANIFEST

CHECK_SECONDS = 1.0
SAMPLED = 256  # pictures compared with all others, to know what chance gives
STRONG, LIKELY = 0.999, 0.99  # shares of others that a match is more alike than (*ours*)
COMPARED = 4  # matches whose pixels are compared with the query's
LEAST_COPY = 0.8  # cosine of those


class Gone(InputError):
    """A picture that the index knows is no longer what it was."""


@dataclass(frozen=True)
class Snapshot:
    """One version of the index."""

    index: ImageIndex
    strong: float  # similarity that one of 1,000 others has to a typical picture
    likely: float  # similarity that one of 100 has

    @property
    def version(self) -> int:
        """Of the index."""
        return self.index.manifest.version

    def certainty(self, similarity: float) -> Literal["strong", "likely", "weak"]:
        """How sure a match is."""
        if similarity >= self.strong:
            return "strong"
        return "likely" if similarity >= self.likely else "weak"

    def content(self, row: int) -> bytes:
        """The file of a row, as it was indexed; raises Gone if it has changed or is absent."""
        try:
            content = read_bytes(self.index.path_of(row))
        except InputError as error:
            raise Gone("the file is gone; run `udmsh index` again") from error
        if digest_of(content) != self.index.rows.files[row]["digest"].tobytes():
            raise Gone("the file has changed; run `udmsh index` again")
        return content


class Collection:
    """An index's folder, always in its newest version; raises InputError where there is none."""

    def __init__(self, path: Path, check_seconds: float = CHECK_SECONDS) -> None:
        self.path, self.problem, self._check_seconds = path, "", check_seconds
        self._seen = self._stamp()
        self._snapshot = _snapshot(ImageIndex.open(path), None)
        self._checked = time.monotonic()
        self._reloading, self._encoding = threading.Lock(), threading.Lock()

    def current(self) -> Snapshot:
        """The newest version; while one thread opens it, the others go on with the one before."""
        due = time.monotonic() - self._checked >= self._check_seconds
        if due and self._reloading.acquire(blocking=False):
            try:
                self._checked = time.monotonic()
                if (stamp := self._stamp()) != self._seen:
                    self._snapshot = _snapshot(ImageIndex.open(self.path), self._snapshot)
                    self._seen, self.problem = stamp, ""
            except (InputError, OSError):  # what is served stays what it was
                self.problem = "the index on the disk cannot be read; an older version is shown"
            finally:
                self._reloading.release()
        return self._snapshot

    def search(self, picture: Picture, k: int) -> tuple[Snapshot, list[Match], set[int]]:
        """The pictures most like one that is not in the index, and which of them are the same."""
        snapshot = self.current()
        with self._encoding:
            ((code, feature),) = snapshot.index.encoder.encode_pixels(iter([picture.pixels]))
        matches = snapshot.index.search_codes(Codes([""], code, feature), k, max(SHORTLIST, k))
        return snapshot, matches, _same(snapshot, picture.thumbnail, matches)

    def warm_up(self) -> None:
        """Load the encoder, so that the first search does not wait for it."""
        encoder = self._snapshot.index.encoder
        side = encoder.spec.image_size
        with self._encoding:
            list(encoder.encode_pixels(iter([np.zeros((3, side, side), np.uint8)])))

    def _stamp(self) -> tuple[int, int, int]:
        try:
            facts = os.stat(self.path / MANIFEST)  # noqa: PTH116
        except FileNotFoundError:
            return 0, 0, 0
        return facts.st_ino, facts.st_mtime_ns, facts.st_size


def similar(snapshot: Snapshot, row: int, k: int) -> tuple[Snapshot, list[Match], set[int]]:
    """The pictures most like a row, which is itself among them."""
    matches = snapshot.index.similar(row, k, max(SHORTLIST, k))
    return snapshot, matches, _same(snapshot, snapshot.index.thumbnail(row), matches)


def _snapshot(index: ImageIndex, former: Snapshot | None) -> Snapshot:
    if former is not None and former.index.encoder.spec == index.encoder.spec:
        index.encoder = former.index.encoder  # it is loaded already
    # what is read when first asked for is opened now: a writer may take its files away
    deque(index.rows.names, maxlen=0)
    str(index.method)
    return Snapshot(index, *_chance(index))


def _chance(index: ImageIndex) -> tuple[float, float]:
    """Similarities that one of 1,000 others has to a typical picture, and one of 100: medians over
    pictures, since among all pairs a hundred pictures of one scene would count the most.
    """
    count, bits = len(index), index.manifest.bits
    if count < 2:
        return 1.0, 1.0
    rows, others = (
        np.sort(np.random.default_rng(seed).choice(count, min(count, most), replace=False))
        for seed, most in ((0, SAMPLED), (1, 64 * SAMPLED))
    )
    words, features = code_words(index.rows.codes[others]), index.rows.features[others]
    quantiles = []
    for row in rows.tolist():
        own = code_words(index.rows.codes[row : row + 1])
        near = likeness(popcounts(words ^ own), bits, index.rows.features[row], features)
        quantiles.append(np.quantile(near[others != row], [STRONG, LIKELY]))
    strong, likely = np.median(quantiles, axis=0)
    return float(strong), float(likely)


def _same(snapshot: Snapshot, thumbnail: bytes, matches: list[Match]) -> set[int]:
    """Rows whose thumbnails show the query's very picture."""
    near = [one for one in matches[:COMPARED] if one.similarity >= LEAST_COPY]
    if not near:
        return set()
    query = Details(thumbnail)
    details = ((one.row, Details(snapshot.index.thumbnail(one.row))) for one in near)
    return {row for row, found in details if overlap(query, found, cuts=False).is_copy}
