"""The user's own pictures: class folders, a manifest, a directory of images, or list files."""

from dataclasses import dataclass, field
from pathlib import Path

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.images.folder import FolderLabels, drawn_queries, load_tree
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.list_file import read_list
from udmsh_pl.images.manifest import read_manifest
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.usable import drop_missing


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolders(RetrievalDataModule):
    """Your own images: class folders, a manifest, or a directory of unlabelled images (then to
    train and index only).

    Args:
        root: folder of the images, see :func:`udmsh_pl.images.folder.load_tree` for its layouts;
            with ``manifest``, the folder that the paths in it are relative to
        manifest: CSV or Parquet file with a column ``path`` and, as it has them, ``split`` and
            ``labels``, see :func:`udmsh_pl.images.manifest.read_manifest`
        query_share: share of the images drawn as queries where none are named
        split_seed: decides which
        allow_missing: go on without images of the manifest that are absent; their numbers enter the
            fingerprint
        labels: ``folders`` names a class by each folder; ``none`` takes folders as albums: no
            labels, no queries, and pictures may lie anywhere
        allow_outside: follow paths of the manifest that lead out of ``root``
        exclude: patterns of files and folders that are left out of ``root`` (``*.png``,
            ``Screenshots``), see :func:`udmsh_pl.images.walk.excluded`; a manifest names its own
    """

    root: Path
    manifest: Path | None = None
    query_share: float = 0.1
    split_seed: int = 0
    allow_missing: bool = False
    labels: FolderLabels = "folders"
    allow_outside: bool = False
    exclude: list[str] = field(default_factory=list)

    def load_splits(self) -> Splits:
        """Look through the folder, or read the manifest and look for its images."""
        if self.manifest is None:
            return load_tree(
                self.root, self.query_share, self.split_seed, self.labels, self.exclude
            )
        parts = read_manifest(self.manifest, self.root, self.allow_outside)
        if "all" not in parts:
            query, train = parts.get("query"), parts.get("train", parts["database"])
            splits = Splits(Protocol("folder", "manifest"), query, train, parts["database"])
        elif parts["all"].labels.shape[1]:
            splits = drawn_queries("manifest", parts["all"], self.query_share, self.split_seed)
        else:
            splits = Splits(Protocol("folder", "unlabelled"), None, parts["all"], parts["all"])
        return drop_missing(splits, self.allow_missing)


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
