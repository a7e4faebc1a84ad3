"""Extraction by several machines: each makes a part of the rows, the last to end joins them."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import FeatureWriter, open_features, store_facts

JOINED_AT_ONCE = 4096  # rows


class Shard(NamedTuple):
    """A part of the rows of every store.

    Args:
        number: from 0
        of: how many there are
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``1/4`` to ``4/4``.

        Raises:
            InputError: anything else.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard is {text!r}; four machines are given 1/4, 2/4, 3/4 and 4/4")
        return cls(int(found[1]) - 1, int(found[2]))

    def rows(self, count: int, batch: int) -> range:
        """Its rows of ``count``: whole batches of those that one process alone would have made, so
        that the features are the same to the last bit.
        """
        batches = -(-count // batch)
        start, stop = (place * batches // self.of for place in (self.number, self.number + 1))
        return range(min(start * batch, count), min(stop * batch, count))

    def place(self, directory: Path) -> Path:
        """Where its rows of a store are kept until all are there."""
        return directory.with_name(f"{directory.name}.shard-{self.number + 1}-of-{self.of}")


def shards_with_rows(of: int, count: int, batch: int) -> list[Shard]:
    """All that have a row, in the order of rows."""
    every = [Shard(number, of) for number in range(of)]
    return [shard for shard in every if len(shard.rows(count, batch))]


def join(
    directory: Path,
    key: Mapping[str, Any],
    rows: int,
    shapes: Mapping[str, tuple[int, ...]],
    parts: list[Path],
    contents: Sequence[bytes] | None = None,
) -> bool:
    """Make a store of its finished parts; False while one is missing.

    Whoever calls holds the store's lock. A joining that was killed goes on where it was. Images
    that a part left out stand behind its last block.
    """
    opened = [open_features(part) for part in parts]
    found = [arrays for arrays in opened if arrays is not None]
    if len(found) < len(parts):
        return False
    facts = [store_facts(part) for part in parts]
    writer = FeatureWriter(directory, key, rows, shapes, contents=contents)
    writer.runners = sorted({runner for one in facts for runner in one.runners})
    begin = 0
    for arrays, own in zip(found, facts, strict=True):
        count = len(next(iter(arrays.values())))
        for at in range(max(writer.done - begin, 0), max(count, 1), JOINED_AT_ONCE):
            block = slice(at, at + JOINED_AT_ONCE)
            last = own.broken if at + JOINED_AT_ONCE >= count else {}
            rows_of = {name: np.asarray(array[block]) for name, array in arrays.items()}
            writer.append(rows_of, last)
        begin += count + len(own.broken)
    writer.finish()
    drop(parts)
    return True


def drop(parts: list[Path]) -> None:
    """Remove parts that are joined, and their locks."""
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
        part.with_name(part.name + ".lock").unlink(missing_ok=True)
