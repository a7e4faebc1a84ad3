"""``ImageIndex``: pictures that can be searched, kept up to date and looked through for copies."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import no_picture
from udmsh_pl.images.names import composed, file_called
from udmsh_pl.images.walk import LINK
from udmsh_pl.safe.untrusted import exists
from udmsh_pl.search import store
from udmsh_pl.search.encoder import Codes, HashEncoder
from udmsh_pl.search.pictures import Report, encoded, find_pictures, read_files
from udmsh_pl.search.searching import SHORTLIST, Match, Searcher, with_lists
from udmsh_pl.search.segment import FileFacts, Rows, Segment, unchanged, write_segment

if TYPE_CHECKING:
    from udmsh_pl.search.duplicates import Copy

CHUNK = 8192  # pictures a segment, and in memory, at most
FEW = 3  # pictures whose deletion is believed, be they all
Files = Path | str | Iterable[Path | str]


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
        """Open the index in a folder; ``encoder`` is its own (:meth:`HashEncoder.of_index`), where
        that is being loaded already.

        Raises ``InputError``: no index, damaged, or of another format.
        """
        return cls(Path(path).expanduser(), encoder=encoder)

    @classmethod
    def build(
        cls, folder: Path | str, encoder: HashEncoder | None = None, out: Path | str | None = None,
        replace_other: bool = False, exclude: Sequence[str] = (),
    ) -> "ImageIndex":  # fmt: skip
        """Index the pictures of a folder; see :func:`udmsh_pl.search.build.build_index`.

        Args:
            folder: folder of the pictures
            encoder: a trained encoder; None learns one from these pictures
            out: the index's folder; None for a temporary one, which :meth:`save` copies
            replace_other: ``out`` may be the index of another folder
            exclude: patterns of what is left out, also by later updates

        Raises ``InputError``: no pictures, or ``out`` is something else, another folder's index, or
        being written.
        """
        from udmsh_pl.search.build import build_index

        owner = tempfile.TemporaryDirectory(prefix="udmsh-") if out is None else None
        path = Path(owner.name if owner else str(out)).expanduser()
        if (path / store.MANIFEST).is_file() and not replace_other:
            check_root(path, Path(folder))
        build_index(path, Path(folder).expanduser(), encoder, exclude=exclude)
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

    @property
    def method(self) -> str:
        """How a search finds the nearest codes."""
        return str(self._searcher)

    def thumbnail(self, row: int) -> bytes:
        """JPEG of a row, its longer side at most 192 pixels."""
        return bytes(self.rows.thumbnails[row])

    def search(self, picture: Any, k: int = 20, rerank: int | None = None) -> list[Match]:
        """The k pictures most like ``picture``, of any kind that :meth:`HashEncoder.encode` takes.

        The ``rerank`` nearest by Hamming distance are ordered by their re-rank features (and by
        that distance, :func:`udmsh_pl.search.searching.likeness`); 0 leaves the order of the codes,
        None stands for 1000.

        Raises ``InputError``: the picture cannot be read, or k is below 1.
        """
        if isinstance(picture, str | Path):
            picture = file_called(Path(picture).expanduser())
        return self.search_codes(self.encoder.encode([picture]), k, rerank)

    def similar(self, row: int, k: int = 20, rerank: int | None = None) -> list[Match]:
        """:meth:`search` for a picture of the index, itself first."""
        if not 0 <= row < len(self):
            raise InputError(f"row is {row}: the index has rows 0 to {len(self) - 1}")
        own = self.rows.take(np.array([row]))
        return self.search_codes(Codes([*own.names], own.codes, own.features), k, rerank)

    def search_codes(self, query: Codes, k: int = 20, rerank: int | None = None) -> list[Match]:
        """:meth:`search` for a picture that is encoded already, the first of ``query``."""
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one picture")
        if not len(self):
            return []
        found = self._searcher.search(query, k, SHORTLIST if rerank is None else rerank)
        return [
            Match(self.path_of(int(row)), int(distance), round(float(cosine), 4), int(row))
            for distance, row, cosine in zip(*found, strict=True)
        ]

    def update(
        self, folder: Path | str | None = None, moved: bool = False, recall: float | None = None,
        allow_deletions: bool = False, verify: bool = False, exclude: Sequence[str] | None = None,
    ) -> Report:  # fmt: skip
        """Add new pictures of the folder, drop those that are deleted, encode changed ones again,
        and touch nothing else.

        A picture is deleted when its folder can be listed and lacks it; one that cannot be reached
        is kept. It is changed when its size, inode or times and then its content differ. A file
        with a known content (moved, copied, touched) is not encoded again.

        Args:
            folder: None for the index's own
            moved: the pictures lie in this ``folder`` now
            recall: of a search among a million and more, see ``build_index``; None: as before
            allow_deletions: drop more than half of the pictures too, and those from outside of the
                folder that are gone
            verify: read every file, also those that seem unchanged, and the index's own
            exclude: patterns of what is left out, from now on; None: as before

        Raises ``InputError``: another folder than the index's, the index is being written, or more
        than half of the pictures are gone and ``allow_deletions`` is not given.
        """
        with store.writing(self.path):
            self._refresh()
            if not moved and folder is not None:
                check_root(self.path, Path(folder))
            root = self.root if folder is None else Path(folder).expanduser().resolve()
            recall = self.manifest.recall if recall is None else recall
            rules = self.manifest.exclude if exclude is None else tuple(exclude)
            manifest = replace(self.manifest, root=str(root), recall=recall, exclude=rules)
            if verify:
                store.check(self.path, self.manifest)
            walked = find_pictures(root, manifest.exclude)
            found = {name: FileFacts.of(facts) for name, facts in walked.files.items()}
            fresh = [*found] if verify else self._changed(found)
            lacking = [name for name in self._known if name not in found]
            listed = _Listings()
            gone = [
                name for name in lacking  # of a format that this installation lacks: not gone
                if listed.lack(path := root / name)
                and not (no_picture(path.suffix.lower()) and path.is_file())
            ]  # fmt: skip
            outside = [name for name in gone if Path(name).is_absolute() and not exists(Path(name))]
            own = [name for name in gone if not Path(name).is_absolute()]
            report = Report(unchanged=len(found) - len(fresh), skipped=walked.skipped)
            report.unreachable = sum(not Path(name).is_absolute() for name in lacking) - len(own)
            if allow_deletions:
                own += outside
            else:  # what a rule leaves out is not gone, but a link to a folder may be an accident
                lost = [
                    name for name in own
                    if walked.why(name) in ("", LINK) or not exists(root / name)
                ]  # fmt: skip
                self._check_deletions(root, lost, [found[name] for name in fresh])
                if outside:
                    many = f"{len(outside):,} pictures from outside of {root} are gone"
                    report.lines.append(f"{many}; --allow-deletions drops them")
            report.deleted = len(own)
            self._write(manifest, fresh, [self._known[name] for name in own], report)
        return report

    def _changed(self, files: dict[str, FileFacts]) -> list[str]:
        """The names of files that are not in the index as they are now."""
        known = {name: self._known[name] for name in files if name in self._known}
        facts, rows = [files[name] for name in known], np.array([*known.values()], dtype=np.int64)
        same = dict(zip(known, unchanged(facts, self.rows.files[rows]).tolist(), strict=True))
        return [name for name in files if not same.get(name, False)]

    def _check_deletions(self, root: Path, gone: list[str], fresh: list[FileFacts]) -> None:
        """Refuse to drop most of the index; a file under a new name is not dropped."""
        renamed = Counter((facts.size, facts.mtime_ns) for facts in fresh)
        files = self.rows.files[np.array([self._known[name] for name in gone], dtype=np.int64)]
        pairs = Counter(zip(files["size"].tolist(), files["mtime_ns"].tolist(), strict=True))
        lost, own = (pairs - renamed).total(), len(self)
        if lost > FEW and lost > own / 2:
            raise InputError(
                f"{lost:,} of {own:,} pictures are gone from {root}; nothing was changed; "
                "connect its disk, or give --allow-deletions if they are deleted"
            )

    def add(self, pictures: Files) -> Report:
        """Add picture files, also from outside of the folder; changed ones are encoded again."""
        with store.writing(self.path):
            self._refresh()
            names = list(dict.fromkeys(self._names(pictures)))
            paths = {name: self.root / name for name in names}
            found = {
                name: FileFacts.of(path.stat()) for name, path in paths.items() if path.is_file()
            }
            changed = {*self._changed(found)}
            fresh = [name for name in names if name not in found or name in changed]
            report = Report(unchanged=len(names) - len(fresh))
            self._write(self.manifest, fresh, [], report)
        return report

    def remove(self, pictures: Files) -> int:
        """Take pictures out of the index, never off the disk; gives how many were in it."""
        with store.writing(self.path):
            self._refresh()
            wanted = set(self._names(pictures))
            gone = [row for name, row in self._known.items() if name in wanted]
            self._write(self.manifest, [], gone, Report())
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

    def duplicates(self, radius: int | None = None, progress: bool = False) -> "list[list[Copy]]":
        """Groups of copies, see :func:`udmsh_pl.search.duplicates.find_groups`."""
        from udmsh_pl.search.duplicates import find_groups

        return find_groups(self.rows, self.manifest.bits, self.path_of, radius, progress)

    def _refresh(self) -> None:
        """Read the index again where another process has written it meanwhile."""
        if store.read_manifest(self.path) != self.manifest:
            self._reload()

    def _reload(self) -> None:
        self.manifest, self.rows = store.open_rows(self.path)
        self._searcher = Searcher(self.path, self.manifest, self.rows)
        self.__dict__.pop("_known", None)

    @cached_property
    def _known(self) -> dict[str, int]:
        """Row of each name."""
        return {name: row for row, name in enumerate(self.rows.names)}

    def _names(self, pictures: Files) -> Iterator[str]:
        """What the index calls these files, also where it has them in another Unicode form."""
        several = [pictures] if isinstance(pictures, str | Path) else pictures
        names = [self._name(Path(picture)) for picture in several]
        odd = any(name not in self._known and not name.isascii() for name in names)
        forms = {composed(name): name for name in self._known} if odd else {}
        return (name if name in self._known else forms.get(composed(name), name) for name in names)

    def _name(self, picture: Path) -> str:
        path = file_called(picture.expanduser())
        if not path.is_absolute():
            path = path.resolve() if path.exists() else self.root / path
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)

    def _write(
        self, manifest: store.Manifest, fresh: Sequence[str], gone: Sequence[int], report: Report
    ) -> None:
        """Encode ``fresh`` and make one new version of the index."""
        removed, version = list(gone), self.manifest.version + 1
        written: list[Segment] = []
        for rows in self._encode(Path(manifest.root), fresh, removed, report) if fresh else ():
            if len(rows):
                name = f"{version:06d}-{len(written):04d}"
                written.append(write_segment(self.path / store.SEGMENTS, name, rows))
        if not removed and not written and manifest == self.manifest:
            return
        changed = store.without(manifest, np.asarray(removed, dtype=np.int64))
        changed = replace(changed, version=version, segments=(*changed.segments, *written))
        changed = with_lists(self.path, store.compacted(self.path, changed))
        store.write_manifest(self.path, changed)
        self._reload()

    def _encode(
        self, root: Path, fresh: Sequence[str], removed: list[int], report: Report
    ) -> Iterator[Rows]:
        """New rows of these files; adds the rows that they replace to ``removed``."""
        files, old = self.rows.files, self._known
        known = {digest.tobytes(): row for row, digest in enumerate(files["digest"])}
        reads = read_files(root, fresh, self.encoder.spec.image_size, known)
        for rows, broken in encoded(reads, self.encoder, known, self.rows, CHUNK):
            places = []
            for place, name in enumerate(rows.names):
                now, before = rows.files[place], files[old[name]] if name in old else None
                if before is None or (now["digest"] != before["digest"]).any():
                    report.added += before is None
                    report.changed += before is not None
                    report.reused += now["digest"].tobytes() in known
                else:
                    report.unchanged += 1  # only its time differs, if anything
                if before is None or now != before:
                    places.append(place)
                    removed += [old[name]] if name in old else []
            report.leave_out(broken)
            for read in broken:
                if read.name in old and read.digest:
                    removed.append(old[read.name])
                    report.deleted += 1
                elif read.name in old:  # it is there, and closed to us
                    report.unreachable += 1
            yield rows.take(np.array(places, dtype=np.int64))


def check_root(path: Path, folder: Path) -> None:
    """Raise InputError for the index ``path`` of another folder than ``folder``."""
    root = store.read_manifest(path).root
    if str(folder.expanduser().resolve()) != root:
        mend = "give that folder, or another --out, or --moved if its pictures lie here now"
        mend += ", or --replace to index this folder instead"
        raise InputError(f"{path} is the index of {root}; {mend}")


class _Listings:
    """What folders hold, each listed once."""

    def __init__(self) -> None:
        self.names = cache(self._names)

    def lack(self, path: Path) -> bool:
        """Whether a file is deleted: its folder can be listed and lacks it, or is deleted itself.
        A file that is there but is left out counts as deleted, a closed one does not.
        """
        names = None if path.parent == path else self.names(path.parent)
        return names is not None and (path.name not in names or exists(path))

    def _names(self, folder: Path) -> set[str] | None:
        try:
            return set(os.listdir(folder))  # noqa: PTH208 - names are compared
        except (FileNotFoundError, NotADirectoryError):
            return set() if self.lack(folder) else None
        except (OSError, ValueError):
            return None
