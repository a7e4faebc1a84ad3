"""Rows of a build that are finished: a run that was killed goes on where it stopped.

They lie in a folder of the index that no reader looks at, as segments with what a manifest would
say of them in a JSON file beside each, which is written last.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.segment import (
    Rows,
    Segment,
    joined,
    no_rows,
    read_segment,
    some_rows,
    write_segment,
)

SIZE = 1024  # pictures between two safe points
DAMAGE = (InputError, OSError, ValueError, KeyError, TypeError, AttributeError)


class Unfinished:
    """Rows by the name of their picture.

    Args:
        folder: theirs; what is damaged in it is made again
        bits: code length
        dims: bytes of a feature
    """

    def __init__(self, folder: Path, bits: int, dims: int) -> None:
        self.folder, self.bits, self.dims = folder, bits, dims
        self._empty = no_rows((bits + 7) // 8, dims)
        self._waiting: list[Rows] = []
        self._parts: list[Rows] = []
        self._places: dict[str, tuple[int, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for facts in sorted(folder.glob("*.json")):
            try:
                self._open(Segment.of(json.loads(facts.read_text(encoding="utf-8"))))
            except DAMAGE:
                facts.unlink(missing_ok=True)

    def missing(self, files: Mapping[str, os.stat_result], names: Sequence[str]) -> list[str]:
        """Those of the names that have no row of the file as it is now."""

        def is_known(name: str) -> bool:
            if name not in self._places:
                return False
            part, row = self._places[name]
            own, now = self._parts[part].files[row], files[name]
            return bool(own["size"] == now.st_size and own["mtime_ns"] == now.st_mtime_ns)

        return [name for name in names if not is_known(name)]

    def add(self, rows: Rows) -> None:
        """Keep rows; they are written once there are ``SIZE``, or when :meth:`rows` is called."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= SIZE:
            self._write()

    def rows(self, names: Sequence[str]) -> Rows:
        """The rows of these pictures, in their order; without those that have none."""
        self._write()
        places = [self._places[name] for name in names if name in self._places]
        found = [some_rows(self._parts[part], np.array([row])) for part, row in places]
        return joined(found, self._empty)

    def _write(self) -> None:
        rows, self._waiting = joined(self._waiting, self._empty), []
        if len(rows):
            name = f"{len(self._parts):06d}-{os.urandom(4).hex()}"
            segment = write_segment(self.folder, name, rows)
            write_text(self.folder / f"{name}.json", json.dumps(asdict(segment)))
            self._open(segment)

    def _open(self, segment: Segment) -> None:
        rows = read_segment(self.folder, segment, self.bits, self.dims, mapped=True)
        self._places |= {name: (len(self._parts), row) for row, name in enumerate(rows.names)}
        self._parts.append(rows)
