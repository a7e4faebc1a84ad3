"""Answers to the API's questions, apart from HTTP."""

import time
from typing import Any

import numpy as np

from udmsh_pl.safe.untrusted import limit
from udmsh_pl.search import Match
from udmsh_pl.serve import schemas
from udmsh_pl.serve.collection import Collection, Snapshot, similar
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.jobs import Jobs
from udmsh_pl.serve.map import COLUMNS, TILE, draw_tiles, positions, tile_rows

UPLOAD_BYTES = 32 << 20
SHOWN_SIDE = 2048  # pixels of a large view's longer side
WAIT = 2.0  # seconds
SCALE = 10_000  # of places
MOST_AT_ONCE = 300_000  # pictures


class OtherVersion(Exception):
    """Ids of another version of the index were given."""


class TooMany(Exception):
    """The collection is too large for what is asked."""


class Computing(Exception):
    """The answer is being computed."""


class Service:
    """Answers from a collection; strangers' bytes go to the decoder.

    Args:
        collection: that is served
        decoder: that opens pictures
        upload_bytes: that an upload may have
        wait: seconds that a request waits for a result that is being computed
        most_at_once: pictures that are compared with each other, or drawn
    """

    def __init__(
        self,
        collection: Collection,
        decoder: Decoder,
        upload_bytes: int = UPLOAD_BYTES,
        wait: float = WAIT,
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:
        self.collection, self.decoder, self.upload_bytes = collection, decoder, upload_bytes
        self._wait, self._most_at_once, self._jobs = wait, most_at_once, Jobs()

    def info(self) -> schemas.Info:
        """The collection."""
        snapshot = self.collection.current()
        index = snapshot.index
        return schemas.Info(
            version=snapshot.version,
            title=schemas.readable(index.root.name or str(index.root)),
            root=schemas.readable(str(index.root)),
            pictures=len(index),
            bits=index.manifest.bits,
            about=index.encoder.spec.note,
            strong=round(snapshot.strong, 4),
            likely=round(snapshot.likely, 4),
            upload_bytes=self.upload_bytes,
            upload_pixels=limit("PIXELS"),
            problem=self.collection.problem,
        )

    def listing(self, name: str, offset: int, count: int) -> schemas.Listing:
        """Pictures whose name holds a text."""
        snapshot = self.collection.current()
        wanted = name.strip().casefold()
        rows: Any = range(len(snapshot.index))
        if wanted:
            names = enumerate(snapshot.index.rows.names)
            rows = [row for row, one in names if wanted in one.casefold()]
        pictures = [schemas.picture(snapshot, row) for row in rows[offset : offset + count]]
        return schemas.Listing(version=snapshot.version, total=len(rows), pictures=pictures)

    def search(self, content: bytes, k: int, radius: int | None, start: float) -> schemas.Results:
        """Pictures like a stranger's."""
        side = self.collection.current().index.encoder.spec.image_size
        picture = self.decoder.query(content, side)
        return _results(*self.collection.search(picture, k), radius, start)

    def similar(
        self, row: int, k: int, radius: int | None, version: int | None, start: float
    ) -> schemas.Results:
        """Pictures like one of the collection."""
        return _results(*similar(self._snapshot(version, row), row, k), radius, start)

    def thumbnail(self, row: int, version: int | None) -> bytes:
        """A small JPEG."""
        return self._snapshot(version, row).index.thumbnail(row)

    def picture(self, row: int, version: int | None) -> bytes:
        """A large JPEG."""
        content = self._snapshot(version, row).content(row)
        return self.decoder.show(content, SHOWN_SIDE)

    def duplicates(
        self, radius: int | None, offset: int, count: int, version: int | None
    ) -> schemas.Duplicates:
        """Groups of copies."""
        snapshot = self._snapshot(version)
        self._check_count(snapshot, "copies are looked for by `udmsh duplicates` among more than")
        key = snapshot.version, "duplicates", radius
        groups = self._computed(key, lambda: snapshot.index.duplicates(radius))
        copies = [copy for group in groups for copy in group if copy.is_copy]
        files = snapshot.index.rows.files
        return schemas.Duplicates(
            version=snapshot.version,
            total=len(groups),
            copies=len(copies),
            bytes=sum(int(files[copy.row]["size"]) for copy in copies),
            groups=[schemas.group(snapshot, group) for group in groups[offset : offset + count]],
        )

    def plane(self, version: int | None) -> schemas.Plane:
        """The map."""
        snapshot = self._snapshot(version)
        self._check_count(snapshot, "there is no map of more than")
        places = self._computed((snapshot.version, "map"), lambda: _places(snapshot))
        return schemas.Plane(
            version=snapshot.version,
            places=places,
            tile=TILE,
            columns=COLUMNS,
            tiles=tile_rows(len(snapshot.index)),
        )

    def tiles(self, version: int | None) -> bytes:
        """The map's small pictures."""
        snapshot = self._snapshot(version)
        rows = tile_rows(len(snapshot.index))
        found: bytes = self._computed(
            (snapshot.version, "tiles"), lambda: draw_tiles(snapshot.index, rows)
        )
        return found

    def start(self) -> None:
        """Load the encoder, and begin with the map."""
        self.collection.warm_up()
        snapshot = self.collection.current()
        if len(snapshot.index) > self._most_at_once:
            return
        self._jobs.result((snapshot.version, "map"), lambda: _places(snapshot))

    def _snapshot(self, version: int | None, row: int = -1) -> Snapshot:
        snapshot = self.collection.current()
        if version not in (None, snapshot.version):
            raise OtherVersion
        if row >= len(snapshot.index):
            raise IndexError(row)
        return snapshot

    def _check_count(self, snapshot: Snapshot, problem: str) -> None:
        if len(snapshot.index) > self._most_at_once:
            raise TooMany(f"{problem} {self._most_at_once:,} pictures")

    def _computed(self, key: Any, function: Any) -> Any:
        found = self._jobs.result(key, function, self._wait)
        if found is None:
            raise Computing
        return found


def _results(
    snapshot: Snapshot, matches: list[Match], same: set[int], radius: int | None, start: float
) -> schemas.Results:
    near = [one for one in matches if radius is None or one.distance <= radius]
    return schemas.Results(
        version=snapshot.version,
        results=schemas.found(snapshot, near, same),
        milliseconds=round(1000 * (time.perf_counter() - start), 2),
    )


def _places(snapshot: Snapshot) -> list[list[int]]:
    rows = snapshot.index.rows
    features = rows.features
    if not features.shape[1]:
        features = np.unpackbits(rows.codes, axis=1).astype(np.int8) * 2 - 1
    places: list[list[int]] = np.rint(positions(features) * SCALE).astype(int).tolist()
    return places
