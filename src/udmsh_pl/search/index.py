"""``ImageIndex``: a collection of pictures that can be searched, kept up to date and looked through
for copies.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search import store
from udmsh_pl.search.defaults import SHORTLIST
from udmsh_pl.search.encoder import Codes, HashEncoder
from udmsh_pl.search.pictures import (
    FileFacts,
    Report,
    encoded,
    facts_of,
    find_pictures,
    read_files,
)
from udmsh_pl.search.searcher import Match, Searcher, with_lists
from udmsh_pl.search.segment import Rows, write_segment

CHUNK = 8192  # pictures a segment, and in memory, at most


class ImageIndex:
    """An index's folder, opened; :meth:`build` and :meth:`open` make one.

    It is read once: a later write of another process is seen by opening it again.
    """

    def __init__(self, path: Path, owner: Any = None, encoder: HashEncoder | None = None) -> None:
        self.path, self._owner = path, owner  # a temporary folder lives as long as its owner
        self._reload()
        own = path / self.manifest.encoder
        self.encoder = encoder if encoder and encoder.folder == own else HashEncoder(own)

    @classmethod
    def open(cls, path: Path | str, encoder: HashEncoder | None = None) -> "ImageIndex":
        """Open an index.

        Args:
            path: its folder
            encoder: its own (:meth:`HashEncoder.of_index`), where that is being loaded already

        Raises:
            InputError: no index, damaged, or of another format.
        """
        return cls(Path(path).expanduser(), encoder=encoder)

    @classmethod
    def build(
        cls,
        folder: Path | str,
        encoder: HashEncoder | None = None,
        out: Path | str | None = None,
    ) -> "ImageIndex":
        """Index the pictures of a folder; without an encoder one is learned from these pictures.

        Args:
            folder: folder of the pictures
            encoder: a trained encoder
            out: the index's folder; None for a temporary one, which :meth:`save` copies

        Raises:
            InputError: no pictures, or ``out`` is something else or being written.
        """
        from udmsh_pl.search.build import build_index

        owner = tempfile.TemporaryDirectory(prefix="udmsh-") if out is None else None
        path = Path(owner.name if owner else str(out)).expanduser()
        build_index(path, Path(folder).expanduser(), encoder)
        return cls(path, owner)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def root(self) -> Path:
        """Folder that the pictures' names are relative to."""
        return Path(self.manifest.root)

    def path_of(self, row: int) -> Path:
        """File of a row."""
        return self.root / self.rows.names[row]

    def search(self, picture: Any, k: int = 20, rerank: int = SHORTLIST) -> list[Match]:
        """The k pictures most like ``picture`` (a path, a PIL image, a uint8 array or tensor).

        The ``rerank`` nearest by Hamming distance are ordered by their re-rank features (and by
        that distance, :func:`udmsh_pl.search.nearest.likeness`); 0 leaves the order of the codes.

        Raises:
            InputError: the picture cannot be read, or k is below 1.
        """
        return self.search_codes(self.encoder.encode([picture]), k, rerank)

    def similar(self, row: int, k: int = 20, rerank: int = SHORTLIST) -> list[Match]:
        """The k pictures most like a picture of the index, itself first."""
        part = slice(row, row + 1)
        name = [self.rows.names[row]]
        return self.search_codes(
            Codes(name, self.rows.codes[part], self.rows.features[part]), k, rerank
        )

    def search_codes(self, query: Codes, k: int = 20, rerank: int = SHORTLIST) -> list[Match]:
        """:meth:`search` for a picture that is encoded already, the first of ``query``."""
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one picture")
        if not len(self):
            return []
        found = self._searcher.search(query, k, rerank)
        return [
            Match(self.path_of(int(row)), int(distance), round(float(cosine), 4), int(row))
            for distance, row, cosine in zip(*found, strict=True)
        ]

    @property
    def method(self) -> str:
        """How a search finds the nearest codes."""
        return str(self._searcher)

    def thumbnail(self, row: int) -> bytes:
        """JPEG of a row, its longer side at most 192 pixels."""
        return bytes(self.rows.thumbnails[row])

    def update(
        self, folder: Path | str | None = None, moved: bool = False, recall: float | None = None
    ) -> Report:
        """Add new pictures of the folder, drop those that are gone, encode changed ones again, and
        touch nothing else.

        A picture is changed when its size or time and then its content differ. A file with a known
        content (moved, copied, touched) is not encoded again.

        Args:
            folder: None for the index's own
            moved: the pictures lie in this ``folder`` now
            recall: of a search among a million and more, see ``build_index``; None: as before

        Raises:
            InputError: another folder than the index's, or the index is being written.
        """
        with store.writing(self.path):
            self._reload()
            root = self._root(folder, moved)
            walked = find_pictures(root)
            found = {
                name: FileFacts(facts.st_size, facts.st_mtime_ns)
                for name, facts in walked.files.items()
            }
            known = {name: row for row, name in enumerate(self.rows.names)}
            own = {name: row for name, row in known.items() if not Path(name).is_absolute()}
            gone = [row for name, row in own.items() if name not in found]
            fresh = [name for name in found if not self._same(known.get(name), found[name])]
            report = Report(deleted=len(gone), unchanged=len(found) - len(fresh))
            report.skipped = walked.skipped
            self._write(root, fresh, gone, report, recall)
        return report

    def add(self, pictures: Iterable[Path | str]) -> Report:
        """Add picture files, also from outside of the index's folder; those already there are
        encoded again if their content changed.
        """
        with store.writing(self.path):
            self._reload()
            names = list(dict.fromkeys(self._name(Path(picture)) for picture in pictures))
            known = {name: row for row, name in enumerate(self.rows.names)}
            fresh = []
            for name in names:
                path = self.root / name
                if not path.is_file() or not self._same(known.get(name), facts_of(path)):
                    fresh.append(name)
            report = Report(unchanged=len(names) - len(fresh))
            self._write(self.root, fresh, [], report)
        return report

    def remove(self, pictures: Iterable[Path | str]) -> int:
        """Take pictures out of the index, never off the disk; gives how many were in it."""
        with store.writing(self.path):
            self._reload()
            wanted = {self._name(Path(picture)) for picture in pictures}
            gone = [row for row, name in enumerate(self.rows.names) if name in wanted]
            self._commit(self.manifest, np.asarray(gone, dtype=np.int64), [])
        return len(gone)

    def save(self, path: Path | str) -> "ImageIndex":
        """Copy the index to another folder and open it there."""
        target = Path(path).expanduser()
        if (target / store.MANIFEST).exists():
            raise InputError(f"{target} is an index already; give another folder")
        with store.writing(self.path), store.writing(target):
            manifest = store.read_manifest(self.path)
            for name in filter(None, (manifest.encoder, store.SEGMENTS, manifest.lists)):
                if (self.path / name).is_dir():
                    shutil.copytree(self.path / name, target / name)
            store.write_manifest(target, manifest)
        return ImageIndex(target)

    def duplicates(self, radius: int | None = None) -> "list[Any]":
        """Groups of pictures that are copies of each other, see
        :func:`udmsh_pl.search.duplicates.find_groups`.
        """
        from udmsh_pl.search.duplicates import find_groups

        return find_groups(self, radius)

    def _reload(self) -> None:
        self.manifest, self.rows = store.open_rows(self.path)
        self._searcher = Searcher(self.path, self.manifest, self.rows)

    def _root(self, folder: Path | str | None, moved: bool) -> Path:
        root = self.root if folder is None else Path(folder).expanduser().resolve()
        if root != self.root and not moved:
            raise InputError(
                f"{self.path} is the index of {self.root}; give that folder, or another --out, or "
                "--moved if its pictures lie here now"
            )
        return root

    def _name(self, picture: Path) -> str:
        path = picture.expanduser()
        if not path.is_absolute():
            path = path.resolve() if path.exists() else self.root / path
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)

    def _same(self, row: int | None, facts: FileFacts) -> bool:
        if row is None:
            return False
        stored = self.rows.files[row]
        return bool(stored["size"] == facts.size and stored["mtime_ns"] == facts.mtime_ns)

    def _write(
        self,
        root: Path,
        fresh: Sequence[str],
        gone: Sequence[int],
        report: Report,
        recall: float | None = None,
    ) -> None:
        """Encode ``fresh`` and make one new version of the index."""
        old = {name: row for row, name in enumerate(self.rows.names)}
        replaced = [old[name] for name in fresh if name in old]
        new = self._encode(root, fresh, old, report)
        recall = self.manifest.recall if recall is None else recall
        changed = replace(self.manifest, root=str(root), recall=recall)
        self._commit(changed, np.asarray([*gone, *replaced], dtype=np.int64), new)

    def _encode(
        self, root: Path, fresh: Sequence[str], old: dict[str, int], report: Report
    ) -> Iterator[Rows]:
        known = {digest.tobytes(): row for row, digest in enumerate(self.rows.files["digest"])}
        reads = read_files(root, fresh, self.encoder.spec.image_size, known)
        for rows, broken in encoded(reads, self.encoder, known, self.rows, CHUNK):
            for name, digest in zip(rows.names, rows.files["digest"], strict=True):
                source = known.get(digest.tobytes())
                if name in old and source == old[name]:
                    report.unchanged += 1  # only its time differs
                    continue
                report.added += name not in old
                report.changed += name in old
                report.reused += source is not None
            report.broken += [(read.name, read.problem) for read in broken]
            report.deleted += sum(read.name in old for read in broken)
            yield rows

    def _commit(
        self, manifest: store.Manifest, removed: NDArray[np.int64], new: Iterable[Rows]
    ) -> None:
        version = self.manifest.version + 1
        written = [
            write_segment(self.path / store.SEGMENTS, f"{version:06d}-{number:04d}", rows)
            for number, rows in enumerate(new)
            if len(rows)
        ]
        if not len(removed) and not written and manifest == self.manifest:
            return
        changed = store.without(manifest, removed)
        changed = replace(changed, version=version, segments=(*changed.segments, *written))
        changed = with_lists(self.path, store.compacted(self.path, changed))
        store.write_manifest(self.path, changed)
        self._reload()
