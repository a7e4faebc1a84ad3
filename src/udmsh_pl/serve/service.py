"""What the API answers: each public method is one of its addresses."""

import time
from typing import Any

import numpy as np
from fastapi import HTTPException, Response

from udmsh_pl.safe.untrusted import limit
from udmsh_pl.search import Match
from udmsh_pl.serve import schemas
from udmsh_pl.serve.collection import Collection, Snapshot, similar
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.jobs import Jobs
from udmsh_pl.serve.map import COLUMNS, TILE, draw_tiles, positions, tile_rows
from udmsh_pl.serve.schemas import Count, Id, Name, Offset, Radius, Version, readable

UPLOAD_BYTES = 32 << 20
SHOWN_SIDE = 2048  # pixels of a large view's longer side
WAIT = 2.0  # seconds
SCALE = 10_000  # of places
MOST_AT_ONCE = 300_000  # pictures
FOR_EVER = "private, max-age=31536000, immutable"  # the address holds the version


class Service:
    """Answers from a collection; strangers' bytes go to the decoder."""

    def __init__(
        self, collection: Collection, decoder: Decoder, wait: float = WAIT,
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:  # fmt: skip
        self.collection, self.decoder, self._jobs = collection, decoder, Jobs()
        self._wait, self._most_at_once = wait, most_at_once

    def info(self) -> schemas.Info:
        """The collection."""
        snapshot = self.collection.current()
        index = snapshot.index
        return schemas.Info(
            version=snapshot.version, title=readable(index.root.name or str(index.root)),
            root=readable(str(index.root)), pictures=len(index), bits=index.manifest.bits,
            about=index.encoder.spec.note, strong=round(snapshot.strong, 4),
            likely=round(snapshot.likely, 4), upload_bytes=UPLOAD_BYTES,
            upload_pixels=limit("PIXELS"), problem=self.collection.problem,
        )  # fmt: skip

    def pictures(self, name: Name = "", offset: Offset = 0, limit: Count = 100) -> schemas.Listing:
        """Pictures, by a part of their name."""
        snapshot = self.collection.current()
        wanted = name.strip().casefold()
        rows: Any = range(len(snapshot.index))
        if wanted:
            names = enumerate(snapshot.index.rows.names)
            rows = [row for row, one in names if wanted in one.casefold()]
        some = [schemas.Picture(**_facts(snapshot, row)) for row in rows[offset : offset + limit]]
        return schemas.Listing(version=snapshot.version, total=len(rows), pictures=some)

    def search(self, content: bytes, k: int, radius: int | None, start: float) -> schemas.Results:
        """Pictures like a stranger's, asked for at ``start``."""
        side = self.collection.current().index.encoder.spec.image_size
        picture = self.decoder.query(content, side)
        return _results(*self.collection.search(picture, k), radius, start)

    def similar(
        self, id: Id, k: Count = 100, radius: Radius = None, version: Version = None
    ) -> schemas.Results:
        """Pictures like one of the collection."""
        start = time.perf_counter()
        return _results(*similar(self._snapshot(version, id), id, k), radius, start)

    def thumbnail(self, id: Id, version: Version = None) -> Response:
        """A picture as JPEG, the longer side at most 192 pixels."""
        return _jpeg(self._snapshot(version, id).index.thumbnail(id), version)

    def picture(self, id: Id, version: Version = None) -> Response:
        """A picture as JPEG without metadata, the longer side at most 2,048 pixels; 410 where its
        file is no longer the one that was indexed.
        """
        content = self._snapshot(version, id).content(id)
        return _jpeg(self.decoder.show(content, SHOWN_SIDE), version)

    def duplicates(
        self, radius: Radius = None, offset: Offset = 0, limit: Count = 50, version: Version = None
    ) -> schemas.Duplicates:
        """Groups of copies."""
        snapshot = self._snapshot(version)
        self._check_count(snapshot, "use `udmsh duplicates` to find copies among more than")
        key = snapshot.version, "duplicates", radius
        groups = self._computed(key, lambda: snapshot.index.duplicates(radius))
        copies = [copy for group in groups for copy in group if copy.is_copy]
        sizes = snapshot.index.rows.files["size"]
        freed = sum(int(sizes[copy.row]) for copy in copies)
        page = groups[offset : offset + limit]
        shown = [[_copy_of(snapshot, one) for one in group] for group in page]
        return schemas.Duplicates(
            version=snapshot.version, total=len(groups), copies=len(copies), bytes=freed,
            groups=shown,
        )  # fmt: skip

    def plane(self, version: Version = None) -> schemas.Plane:
        """The collection on a plane."""
        snapshot = self._snapshot(version)
        self._check_count(snapshot, "there is no map of more than")
        places, tiles = self._computed(*_map_of(snapshot)), tile_rows(len(snapshot.index))
        return schemas.Plane(
            version=snapshot.version, places=places, tile=TILE, columns=COLUMNS, tiles=tiles
        )

    def tiles(self, version: Version = None) -> Response:
        """Small pictures for the map, in one."""
        snapshot = self._snapshot(version)
        rows, key = tile_rows(len(snapshot.index)), (snapshot.version, "tiles")
        return _jpeg(self._computed(key, lambda: draw_tiles(snapshot.index, rows)), version)

    def start(self) -> None:
        """Load the encoder, and begin with the map."""
        self.collection.warm_up()
        snapshot = self.collection.current()
        if len(snapshot.index) <= self._most_at_once:
            self._jobs.result(*_map_of(snapshot))

    def _snapshot(self, version: int | None, row: int = -1) -> Snapshot:
        snapshot = self.collection.current()
        if version not in (None, snapshot.version):
            raise HTTPException(409, "the index has a newer version; ask /info")
        if row >= len(snapshot.index):
            raise HTTPException(404, "no such picture")
        return snapshot

    def _check_count(self, snapshot: Snapshot, problem: str) -> None:
        if len(snapshot.index) > self._most_at_once:
            raise HTTPException(422, f"{problem} {self._most_at_once:,} pictures")

    def _computed(self, key: Any, function: Any) -> Any:
        found = self._jobs.result(key, function, self._wait)
        if found is None:
            raise HTTPException(202, "being computed; ask again", {"retry-after": "1"})
        return found


def _facts(snapshot: Snapshot, row: int) -> dict[str, Any]:
    """Of a row, as :class:`schemas.Picture` names them."""
    facts, name = snapshot.index.rows.files[row], snapshot.index.rows.names[row]
    modified = round(int(facts["mtime_ns"]) / 1e9, 3)
    sizes = {of: int(facts[of]) for of in ("width", "height", "size")}
    return {"id": row, "name": readable(name), "modified": modified} | sizes


def _copy_of(snapshot: Snapshot, one: Any) -> schemas.CopyOf:
    facts = _facts(snapshot, one.row)
    return schemas.CopyOf(**facts, relation=one.relation, agreement=one.agreement)


def _results(
    snapshot: Snapshot, matches: list[Match], same: set[int], radius: int | None, start: float
) -> schemas.Results:
    results = [
        schemas.Found(
            **_facts(snapshot, one.row),
            distance=one.distance,
            similarity=one.similarity,
            certainty="same" if one.row in same else snapshot.certainty(one.similarity),
        )
        for one in matches
        if radius is None or one.distance <= radius
    ]
    took = round(1000 * (time.perf_counter() - start), 2)
    return schemas.Results(version=snapshot.version, results=results, milliseconds=took)


def _jpeg(content: bytes, version: int | None) -> Response:
    cache = {} if version is None else {"cache-control": FOR_EVER}
    return Response(content, media_type="image/jpeg", headers=cache)


def _map_of(snapshot: Snapshot) -> tuple[Any, Any]:
    """Key and function of the places of all pictures."""

    def places() -> list[list[int]]:
        rows = snapshot.index.rows
        features = rows.features
        if not features.shape[1]:
            features = np.unpackbits(rows.codes, axis=1).astype(np.int8) * 2 - 1
        found: list[list[int]] = np.rint(positions(features) * SCALE).astype(int).tolist()
        return found

    return (snapshot.version, "map"), places
