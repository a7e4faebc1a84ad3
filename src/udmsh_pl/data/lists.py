"""Images that list files name, as a data module."""

from dataclasses import dataclass
from pathlib import Path

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import read_list
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.usable import drop_missing


@dataclass(kw_only=True, eq=False, repr=False)
class ListFiles(RetrievalDataModule):
    """Images that list files name: the general case, and the way to repeat somebody else's split.

    Args:
        root: folder that the paths in the lists are relative to
        database: list of the images that are searched
        train: list of the images to learn from; null for the database
        query: list of the images to search with; null when there is nothing to score
        dataset: name in the results
        protocol: name of the split in the results
        map_at: k of the mAP that is reported first; null for the whole database
        labels: labels a line must have, 0 for lists of bare paths; null to take it from the lists
        allow_missing: go on without the images that are absent; their numbers enter the fingerprint
        missing: numbers of images, by split, that were left out when the lists were written
        allow_outside: follow paths that lead out of ``root``
        upright: turn pictures as their EXIF orientation says; off to repeat published numbers
    """

    root: Path
    database: Path
    train: Path | None = None
    query: Path | None = None
    dataset: str = "lists"
    protocol: str = "lists"
    map_at: int | None = None
    labels: int | None = None
    allow_missing: bool = False
    missing: dict[str, int] | None = None
    allow_outside: bool = False
    upright: bool = True

    def load_splits(self) -> Splits:
        """Read the lists, see :func:`read_list`, and look for the images."""
        database = self._read(self.database)
        same = self.train is None or self.train == self.database
        train = database if same or self.train is None else self._read(self.train)
        query = None if self.query is None else self._read(self.query)
        facts = Protocol(self.dataset, self.protocol, labels=self.labels, map_at=self.map_at)
        splits = Splits(facts, query, train, database, self.missing or {})
        return drop_missing(splits, self.allow_missing)

    def _read(self, path: Path) -> ImageList:
        return read_list(path, self.root, self.labels, self.allow_outside, self.upright)
