"""Rows of a build that are finished: a run that was killed goes on where it stopped.

They lie in a folder of the index that no reader looks at, as segments with what a manifest would
say of them in a JSON file beside each, which is written last.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.pictures import joined, no_rows
from udmsh_pl.search.segment import Rows, Segment, read_segment, write_segment

SIZE = 1024  # pictures between two safe points


class Unfinished:
    """Rows by the name of their picture.

    Args:
        folder: theirs; what is damaged in it is made again
        bits: code length
        dims: bytes of a feature
    """

    def __init__(self, folder: Path, bits: int, dims: int) -> None:
        self.folder, self.bits, self.dims = folder, bits, dims
        self._parts: list[Rows] = []
        self._places: dict[str, tuple[int, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for facts in sorted(folder.glob("*.json")):
            try:
                plain = json.loads(facts.read_text(encoding="utf-8"))
                files = {
                    name: (int(size), str(sha)) for name, (size, sha) in plain["files"].items()
                }
                self._open(Segment(str(plain["name"]), int(plain["rows"]), files))
            except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
                facts.unlink(missing_ok=True)

    def missing(self, files: Mapping[str, os.stat_result], names: Sequence[str]) -> list[str]:
        """Those of the names that have no row of the file as it is now."""
        return [name for name in names if not self._is_row_of(name, files[name])]

    def add(self, rows: Rows) -> None:
        """Keep rows."""
        if len(rows):
            name = f"{len(self._parts):06d}-{os.urandom(4).hex()}"
            segment = write_segment(self.folder, name, rows)
            write_text(self.folder / f"{name}.json", json.dumps(asdict(segment)))
            self._open(segment)

    def rows(self, names: Sequence[str]) -> Rows:
        """The rows of these pictures, in their order; without those that have none."""
        found = []
        for name in names:
            if name in self._places:
                number, row = self._places[name]
                part, own = self._parts[number], slice(row, row + 1)
                found.append(
                    Rows(
                        [name],
                        part.files[own],
                        part.codes[own],
                        part.features[own],
                        [part.thumbnails[row]],
                    )
                )
        return joined(found, no_rows((self.bits + 7) // 8, self.dims))

    def _open(self, segment: Segment) -> None:
        rows = read_segment(self.folder, segment, self.bits, self.dims, mapped=True)
        for row, name in enumerate(rows.names):
            self._places[name] = len(self._parts), row
        self._parts.append(rows)

    def _is_row_of(self, name: str, facts: os.stat_result) -> bool:
        if name not in self._places:
            return False
        number, row = self._places[name]
        own = self._parts[number].files[row]
        return bool(own["size"] == facts.st_size and own["mtime_ns"] == facts.st_mtime_ns)
