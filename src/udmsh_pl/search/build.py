"""The first index of a folder: learn an encoder where none is given, encode everything, and only
then make it visible. What is finished is kept on the way, so that a killed run goes on.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.images.ahead import batched
from udmsh_pl.images.walk import skipped_line
from udmsh_pl.safe.files import sha256_json, write_text
from udmsh_pl.safe.profile import clock
from udmsh_pl.search import store
from udmsh_pl.search.encoder import HashEncoder, bar
from udmsh_pl.search.pictures import Report, encoded, find_pictures, read_files, rows_of
from udmsh_pl.search.searching import with_lists
from udmsh_pl.search.segment import Rows, Segment, joined, read_segment, write_segment
from udmsh_pl.search.spec import FILE

CHUNK = 8192  # pictures a segment
PARTS = 64  # at least, of a collection that several machines encode
UNFINISHED = "unfinished"  # folder in the index's
SIZE = 1024  # pictures between two safe points
DAMAGE = (InputError, OSError, ValueError, KeyError, TypeError, AttributeError)

Broken = list[tuple[str, str]]  # name and reason
Files = Mapping[str, os.stat_result]


class Part(NamedTuple):
    """Pictures that become one segment, anywhere: their folder, their names relative to it, the
    encoder's folder, the folder of the segments, and the segment's name.
    """

    root: Path
    names: tuple[str, ...]
    encoder: Path
    segments: Path
    name: str


# parts -> the segment of each, in order, None where no picture could be read, and those that cannot
Elsewhere = Callable[[Sequence[Part]], Iterator[tuple[Segment | None, Broken]]]


def build_index(
    path: Path, folder: Path, encoder: HashEncoder | None, bits: int = 64,
    recall: float = store.RECALL, elsewhere: Elsewhere | None = None, exclude: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Index a folder from nothing, or anew: a former index stays what it is until the end.

    A run that was killed left what it had finished in the index's folder, and this one goes on.

    Args:
        path: the index's folder
        folder: folder of the pictures
        encoder: a trained encoder; None learns one from these pictures
        bits: code length of one that is learned
        recall: share of the nearest codes that a search should find among a million pictures and
            more, which it finds through inverted lists; 1 to look at all codes, as among fewer
        elsewhere: encodes parts on other machines; None encodes here. What is learned from is
            encoded here in any case
        exclude: patterns of what is left out, also by later updates, see
            :func:`udmsh_pl.images.walk.excluded`

    Raises ``InputError``: no readable pictures, or ``path`` is something else or being written.
    """
    root = folder.resolve()
    walked = find_pictures(root, exclude)
    report, names = Report(skipped=walked.skipped), list(walked.files)
    if not names:
        problem = f"no pictures here ({skipped_line(walked.skipped)})"
        raise InputError(f"{folder}: {problem}; give the folder of your pictures")
    with store.writing(path):
        known = (path / store.MANIFEST).is_file()
        version = store.read_manifest(path).version + 1 if known else 1
        here, work = path / f"encoder-{version:06d}", path / UNFINISHED
        maker = _Segments(path / store.SEGMENTS, version)
        if encoder is None:
            names, encoder = _learn(root, walked.files, work, maker, report, bits)
        elif not encoder.spec.dims:
            encoder = _with_rerank(encoder, root, names, work)
        encoder.save(here)
        encoder = HashEncoder(here, encoder.runner)
        if elsewhere is None:
            for rows in _encode(root, walked.files, names, encoder, work, report):
                maker.add(rows)
        else:
            size = max(1, min(CHUNK, -(-len(names) // PARTS)))
            parts = [
                Part(root, tuple(some), here, maker.parent, maker.name(number))
                for number, some in enumerate(batched(names, size))
            ]
            for segment, broken in elsewhere(parts):
                report.broken += broken
                maker.made += [segment] if segment else []
        report.added = sum(segment.rows for segment in maker.made)
        if not report.added:
            raise _unreadable(folder, f"{len(walked.files):,} pictures", report)
        spec, made = encoder.spec, tuple(maker.made)
        manifest = store.Manifest(
            version, str(root), here.name, spec.bits, spec.dims, made,
            recall=recall, exclude=tuple(exclude),
        )  # fmt: skip
        store.write_manifest(path, with_lists(path, manifest))
        shutil.rmtree(work, ignore_errors=True)
    return report


def encode_part(part: Part, encoder: HashEncoder) -> tuple[Segment | None, Broken]:
    """Write the segment of a part; gives it and what cannot be read."""
    spec, report = encoder.spec, Report()
    reads = read_files(part.root, part.names, spec.image_size, {})
    nothing = Rows.empty(spec.code_bytes, spec.dims)
    [(rows, broken)] = encoded(reads, encoder, {}, nothing, len(part.names))
    report.leave_out(broken)
    segment = write_segment(part.segments, part.name, rows) if len(rows) else None
    return segment, report.broken


class _Segments:
    """Writes rows as the segments of one version."""

    def __init__(self, parent: Path, version: int) -> None:
        self.parent, self.version = parent, version
        self.made: list[Segment] = []

    def add(self, rows: Rows) -> None:
        for start in range(0, len(rows), CHUNK):
            part = rows.take(np.arange(start, min(start + CHUNK, len(rows))))
            self.made.append(write_segment(self.parent, self.name(), part))

    def name(self, ahead: int = 0) -> str:
        """Of the next segment, or one that comes after it."""
        return f"{self.version:06d}-{len(self.made) + ahead:04d}"


class Unfinished:
    """Rows of a build that are finished, by the name of their picture.

    They lie as segments in a folder of the index that no reader opens. Beside each, a JSON file,
    written last, holds its entry of a manifest. Damaged ones are made again.
    """

    def __init__(self, folder: Path, bits: int, dims: int) -> None:
        self.folder, self.bits, self.dims = folder, bits, dims
        self._empty = Rows.empty((bits + 7) // 8, dims)
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
        found = [
            self._parts[part].take(np.array([row for _, row in some]))
            for part, some in groupby(places, itemgetter(0))
        ]
        return joined([self._empty, *found])

    def _write(self) -> None:
        rows, self._waiting = joined([self._empty, *self._waiting]), []
        if len(rows):
            name = f"{len(self._parts):06d}-{os.urandom(4).hex()}"
            segment = write_segment(self.folder, name, rows)
            write_text(self.folder / f"{name}.json", json.dumps(asdict(segment)))
            self._open(segment)

    def _open(self, segment: Segment) -> None:
        rows = read_segment(self.folder, segment, self.bits, self.dims, mapped=True)
        self._places |= {name: (len(self._parts), row) for row, name in enumerate(rows.names)}
        self._parts.append(rows)


def _encode(
    root: Path, files: Files, names: list[str], encoder: HashEncoder, work: Path, report: Report
) -> Iterator[Rows]:
    """Rows of the pictures, a segment at a time; those of a killed run are not made again."""
    spec = encoder.spec
    done = Unfinished(work / f"codes-{sha256_json(asdict(spec))[:16]}", spec.bits, spec.dims)
    if missing := _missing(done, files, names, report):
        reads = bar(read_files(root, missing, spec.image_size, {}), len(missing))
        nothing = Rows.empty(spec.code_bytes, spec.dims)
        for rows, broken in encoded(reads, encoder, {}, nothing, min(SIZE, len(missing))):
            report.leave_out(broken)
            done.add(rows)
    for part in batched(names, CHUNK):
        yield done.rows(part)


def _learn(
    root: Path, files: Files, work: Path, maker: _Segments, report: Report, bits: int
) -> tuple[list[str], HashEncoder]:
    """Learn from chosen pictures, which get codes too; gives the other names and the encoder."""
    with clock("imports"):
        from udmsh_pl.search import train
        from udmsh_pl.search.graph import read_network

    picked, shapes = train.chosen(list(files)), train.feature_shapes()
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    # both features of a picture side by side, float16, as the bytes that a segment holds
    done = Unfinished(work / f"features-{train.backbone_key()}", 0, 2 * sum(sizes))
    if missing := _missing(done, files, picked, report):
        reads = read_files(root, missing, train.backbone().image_size, {})
        every = bar(reads, len(missing), "features")
        for batch, flat in train.extracted(every, len(missing), report):
            done.add(rows_of(batch, np.empty((len(batch), 0), np.uint8), flat.view(np.int8)))
    kept, place = done.rows(picked), done.folder.name
    del done  # its pages count as memory
    if not len(kept):
        raise _unreadable(root, "the pictures", report)
    values = np.split(kept.features.view(np.float16), np.cumsum(sizes)[:-1], axis=1)
    features = {
        name: one.reshape(-1, *shape)
        for (name, shape), one in zip(shapes.items(), values, strict=True)
    }
    facts = [[bytes(digest).hex() for digest in kept.files["digest"]], bits, place]
    folder = work / f"encoder-{sha256_json(facts)[:16]}"
    start, took = time.perf_counter(), ""
    if not (folder / FILE).is_file():
        with clock("encoder"):  # what is neither the teacher nor steps: made, traced and written
            train.learn(features, folder, bits)
        took = f"; learning took {time.perf_counter() - start:.0f} s"
    encoder = HashEncoder(folder)
    report.lines.append(encoder.spec.note + took)
    codes, reranks = train.encode_features(read_network(folder, encoder.spec).head, features)
    maker.add(replace(kept, codes=codes, features=reranks))
    chosen = set(picked)
    return [name for name in files if name not in chosen], encoder


def _with_rerank(encoder: HashEncoder, root: Path, names: list[str], work: Path) -> HashEncoder:
    from udmsh_pl.search import train
    from udmsh_pl.search.graph import read_network

    few = np.random.default_rng(0).permutation(len(names))[: train.FUSED_FROM]
    reads = read_files(root, [names[row] for row in few], encoder.spec.image_size, {})
    network = read_network(encoder.folder, encoder.spec)
    folder = work / f"rerank-{sha256_json([asdict(encoder.spec), names])[:16]}"
    if not (folder / FILE).is_file():
        train.with_rerank(network, encoder.spec, reads, folder)
    return HashEncoder(folder)


def _missing(done: Unfinished, files: Files, names: list[str], report: Report) -> list[str]:
    """Names that still have no row; how many have one is reported."""
    missing = done.missing(files, names)
    if count := len(names) - len(missing):
        report.lines.append(f"{count:,} pictures were finished by a run that was interrupted")
    return missing


def _unreadable(folder: Path, which: str, report: Report) -> InputError:
    first = ": ".join(report.broken[0])
    return InputError(f"{folder}: none of {which} can be read; mend them, first {first}")
