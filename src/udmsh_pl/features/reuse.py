"""Rows of other stores of the cache: a list that grew costs what is new in it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from udmsh_pl.features.store import MALFORMED, Arrays, FeatureWriter, open_features, store_facts

_log = logging.getLogger(__name__)
OF_A_LIST = ("images", "rows")  # facts of a key that tell lists apart, and nothing else
COPIED_AT_ONCE = 4096  # images


@dataclass
class Known:
    """Rows by the content of their image.

    Args:
        stores: arrays of each store
        places: content -> number of a store, and the row in it
        broken: content -> why it has no row
        runners: what made the rows
    """

    stores: list[Arrays] = field(default_factory=list)
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    broken: dict[bytes, str] = field(default_factory=dict)
    runners: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, cache: Path, prefix: str, key: Mapping[str, Any]) -> "Known":
        """Everything in finished stores of a cache whose key differs in the list alone.

        Args:
            cache: folder of all stores
            prefix: first part of the stores' names
            key: of the store that is to be made
        """
        known = cls()
        wanted = _settings(key)
        for meta in sorted(cache.glob(f"{prefix}*/meta.json")):
            if meta.parent.name.endswith(".part"):
                continue
            try:
                facts = store_facts(meta.parent)
                arrays = open_features(meta.parent) if _settings(facts.key) == wanted else None
            except (*MALFORMED, OSError) as error:
                _log.warning("%s: cannot be read, so its rows are made again (%s)", meta, error)
                continue
            if arrays is not None and facts.contents is not None:
                known._add(arrays, facts.contents, facts.broken)
                known.runners.update(facts.runners)
        return known

    def unknown(self, contents: Sequence[bytes]) -> list[int]:
        """Rows of a list that are in no store."""
        return [
            row
            for row, content in enumerate(contents)
            if content not in self.places and content not in self.broken
        ]

    def copy_to(self, writer: FeatureWriter, contents: Sequence[bytes]) -> Arrays:
        """Fill a store, from where it was left, with rows that are all known."""
        writer.runners = sorted({*writer.runners, *self.runners})
        for start in range(writer.done, len(contents), COPIED_AT_ONCE):
            part = contents[start : start + COPIED_AT_ONCE]
            broken = {
                row: self.broken[content]
                for row, content in enumerate(part, start)
                if content not in self.places
            }
            places = np.array([self.places[one] for one in part if one in self.places], np.int64)
            writer.append(self._rows(writer, places.reshape(-1, 2)), broken)
        return writer.finish()

    def _rows(self, writer: FeatureWriter, places: Any) -> dict[str, Any]:
        found = {
            name: np.empty((len(places), *shape), np.float16)
            for name, shape in writer.shapes.items()
        }
        for number in np.unique(places[:, 0]):
            mine = places[:, 0] == number
            for name, rows in found.items():
                rows[mine] = self.stores[number][name][places[mine, 1]]
        return found

    def _add(self, arrays: Arrays, contents: Sequence[bytes], broken: Mapping[int, str]) -> None:
        row = 0
        for number, content in enumerate(contents):
            if number in broken:
                self.broken[content] = broken[number]
            else:
                self.places[content] = len(self.stores), row
                row += 1
        self.stores.append(arrays)


def _settings(key: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in OF_A_LIST}
