"""What the API is asked for, apart from HTTP."""

import time
from typing import Any

import numpy as np

from udmsh_pl.safe.untrusted import limit
from udmsh_pl.search import Match
from udmsh_pl.serve import answers
from udmsh_pl.serve.background import Background
from udmsh_pl.serve.collection import Collection, Snapshot, similar
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.layout import positions
from udmsh_pl.serve.tiles import COLUMNS, TILE, sheet_of, tiled

UPLOAD_BYTES = 32 << 20
SHOWN_SIDE = 2048  # pixels of a large view's longer side
WAIT = 2.0  # seconds that a request waits for what is being computed
SCALE = 10_000  # of places
MOST_AT_ONCE = 300_000  # pictures that are compared with each other, or drawn


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
    """

    def __init__(
        self, collection: Collection, decoder: Decoder, upload_bytes: int = UPLOAD_BYTES
    ) -> None:
        self.collection, self.decoder, self.upload_bytes = collection, decoder, upload_bytes
        self._background = Background()

    def info(self) -> answers.Info:
        """The collection."""
        snapshot = self.collection.current()
        index = snapshot.index
        return answers.Info(
            version=snapshot.version,
            title=answers.readable(index.root.name or str(index.root)),
            root=answers.readable(str(index.root)),
            pictures=len(index),
            bits=index.manifest.bits,
            about=index.encoder.spec.note,
            strong=round(snapshot.strong, 4),
            likely=round(snapshot.likely, 4),
            upload_bytes=self.upload_bytes,
            upload_pixels=limit("PIXELS"),
            problem=self.collection.problem,
        )

    def listing(self, name: str, offset: int, count: int) -> answers.Listing:
        """Pictures whose name holds a text."""
        snapshot = self.collection.current()
        wanted = name.strip().casefold()
        rows: Any = range(len(snapshot.index))
        if wanted:
            names = enumerate(snapshot.index.rows.names)
            rows = [row for row, one in names if wanted in one.casefold()]
        pictures = [answers.picture(snapshot, row) for row in rows[offset : offset + count]]
        return answers.Listing(version=snapshot.version, total=len(rows), pictures=pictures)

    def search(self, content: bytes, k: int, radius: int | None, start: float) -> answers.Results:
        """Pictures like a stranger's."""
        side = self.collection.current().index.encoder.spec.image_size
        picture = self.decoder.query(content, side)
        return _results(*self.collection.search(picture, k), radius, start)

    def similar(
        self, row: int, k: int, radius: int | None, version: int | None, start: float
    ) -> answers.Results:
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
    ) -> answers.Duplicates:
        """Groups of copies."""
        snapshot = self._snapshot(version)
        _check_count(snapshot, "copies are looked for by `udmsh duplicates` among more than")
        key = snapshot.version, "duplicates", radius
        groups = self._computed(key, lambda: snapshot.index.duplicates(radius))
        copies = [copy for group in groups for copy in group if copy.is_copy]
        files = snapshot.index.rows.files
        return answers.Duplicates(
            version=snapshot.version,
            total=len(groups),
            copies=len(copies),
            bytes=sum(int(files[copy.row]["size"]) for copy in copies),
            groups=[answers.group(snapshot, group) for group in groups[offset : offset + count]],
        )

    def plane(self, version: int | None) -> answers.Plane:
        """The map."""
        snapshot = self._snapshot(version)
        _check_count(snapshot, "there is no map of more than")
        places = self._computed((snapshot.version, "map"), lambda: _places(snapshot))
        return answers.Plane(
            version=snapshot.version,
            places=places,
            tile=TILE,
            columns=COLUMNS,
            tiles=tiled(len(snapshot.index)),
        )

    def tiles(self, version: int | None) -> bytes:
        """The map's small pictures."""
        snapshot = self._snapshot(version)
        rows = tiled(len(snapshot.index))
        found: bytes = self._computed(
            (snapshot.version, "tiles"), lambda: sheet_of(snapshot.index, rows)
        )
        return found

    def start(self) -> None:
        """Load the encoder, and begin with the map."""
        self.collection.warm_up()
        snapshot = self.collection.current()
        if len(snapshot.index) > MOST_AT_ONCE:
            return
        self._background.result((snapshot.version, "map"), lambda: _places(snapshot))

    def _snapshot(self, version: int | None, row: int = -1) -> Snapshot:
        snapshot = self.collection.current()
        if version not in (None, snapshot.version):
            raise OtherVersion
        if row >= len(snapshot.index):
            raise IndexError(row)
        return snapshot

    def _computed(self, key: Any, function: Any) -> Any:
        found = self._background.result(key, function, WAIT)
        if found is None:
            raise Computing
        return found


def _results(
    snapshot: Snapshot, matches: list[Match], same: set[int], radius: int | None, start: float
) -> answers.Results:
    near = [one for one in matches if radius is None or one.distance <= radius]
    return answers.Results(
        version=snapshot.version,
        results=answers.found(snapshot, near, same),
        milliseconds=round(1000 * (time.perf_counter() - start), 2),
    )


def _check_count(snapshot: Snapshot, what: str) -> None:
    if len(snapshot.index) > MOST_AT_ONCE:
        raise TooMany(f"{what} {MOST_AT_ONCE:,} pictures")


def _places(snapshot: Snapshot) -> list[list[int]]:
    rows = snapshot.index.rows
    features = rows.features
    if not features.shape[1]:
        features = np.unpackbits(rows.codes, axis=1).astype(np.int8) * 2 - 1
    places: list[list[int]] = np.rint(positions(features) * SCALE).astype(int).tolist()
    return places
