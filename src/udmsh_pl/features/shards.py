"""Extraction by several machines: each makes a part of the rows, the last to end joins them."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import FeatureWriter, Place, open_features, places_of, store_facts


class Shard(NamedTuple):
    """A part of the rows of every store: its number, from 0, and how many there are."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``1/4`` to ``4/4``; refuses all else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard is {text!r}; give PART/PARTS: 1/4 to 4/4 on four machines")
        return cls(int(found[1]) - 1, int(found[2]))

    def rows(self, count: int, batch: int) -> range:
        """Its rows of ``count``: whole batches of a single process's run, so that the features are
        the same to the last bit.
        """
        batches = -(-count // batch)
        start, stop = (place * batches // self.of for place in (self.number, self.number + 1))
        return range(min(start * batch, count), min(stop * batch, count))

    def place(self, directory: Path) -> Path:
        """Where its rows of a store are kept until all are there."""
        return directory.with_name(f"{directory.name}.shard-{self.number + 1}-of-{self.of}")


def join(
    directory: Path, key: Mapping[str, Any], rows: int, shapes: Mapping[str, tuple[int, ...]],
    parts: list[Path], contents: Sequence[bytes] | None = None,
) -> bool:  # fmt: skip
    """Make a store of its finished parts, in the order of rows; False while one is missing.

    Whoever calls holds the store's lock. A joining that was killed goes on where it was.
    """
    opened = [open_features(part) for part in parts]
    found = [arrays for arrays in opened if arrays is not None]
    if len(found) < len(parts):
        return False
    places: list[Place] = []
    runners: set[str] = set()
    for number, (arrays, part) in enumerate(zip(found, parts, strict=True)):
        facts, count = store_facts(part), len(next(iter(arrays.values())))
        runners |= set(facts.runners)
        own = range(len(places), len(places) + count + len(facts.broken))
        places += places_of(number, own, facts.broken)
    FeatureWriter(directory, key, rows, shapes, runners, contents).copy(found, places)
    drop(parts)
    return True


def drop(parts: list[Path]) -> None:
    """Remove parts that are joined, and their locks."""
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
        part.with_name(part.name + ".lock").unlink(missing_ok=True)
