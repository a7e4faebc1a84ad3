"""The first index of a folder: learn an encoder where none is given, encode everything, and only
then make it visible.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search import store
from udmsh_pl.search.encoder import HashEncoder
from udmsh_pl.search.pictures import find_pictures
from udmsh_pl.search.reading import Read, Report, encoded, read_files, rows_of
from udmsh_pl.search.searching import with_lists
from udmsh_pl.search.segment import FILES, Rows, Segment, blocks, write_segment
from udmsh_pl.search.spec import EncoderSpec

CHUNK = 8192  # pictures a segment
PARTS = 64  # at least, of a collection that several machines encode

Broken = list[tuple[str, str]]  # name and reason


class Part(NamedTuple):
    """Pictures that become one segment, anywhere.

    Args:
        root: folder of the pictures
        names: of the pictures, relative to it
        encoder: the encoder's folder
        segments: folder of the segments
        name: of the segment
    """

    root: Path
    names: tuple[str, ...]
    encoder: Path
    segments: Path
    name: str


# parts -> the segment of each, in order, None where no picture could be read, and those that cannot
Elsewhere = Callable[[Sequence[Part]], Iterator[tuple[Segment | None, Broken]]]


def build_index(
    path: Path,
    folder: Path,
    encoder: HashEncoder | None,
    bits: int = 64,
    recall: float = store.RECALL,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """Index a folder from nothing, or anew: a former index stays what it is until the end.

    Args:
        path: the index's folder
        folder: folder of the pictures
        encoder: a trained encoder; None learns one from these pictures
        bits: code length of one that is learned
        recall: share of the nearest codes that a search should find among a million pictures and
            more, which it finds through inverted lists; 1 to look at all codes, as among fewer
        elsewhere: encodes parts on other machines; None encodes here. What is learned from is
            encoded here in any case

    Raises:
        InputError: no readable pictures, or ``path`` is something else or being written.
    """
    report = Report()
    root = folder.resolve()
    names = list(find_pictures(root))
    if not names:
        raise InputError(f"{folder}: no pictures here; give the folder of your pictures")
    with store.writing(path):
        version = store.read_manifest(path).version + 1 if _is_index(path) else 1
        here = path / f"encoder-{version:06d}"
        maker = _Segments(path / store.SEGMENTS, version)
        if encoder is None:
            rest, spec = _learn(root, names, here, maker, report, bits)
            encoder = HashEncoder(here)
        else:
            encoder.save(here)
            encoder = encoder if encoder.spec.dims else _with_rerank(encoder, root, names, here)
            rest, spec = names, encoder.spec
        made = (
            _here(root, rest, encoder)
            if elsewhere is None
            else elsewhere(maker.parts(root, rest, here))
        )
        for found, broken in made:
            report.broken += broken
            maker.add(found)
        report.added = sum(segment.rows for segment in maker.made)
        if not report.added:
            raise InputError(
                f"{folder}: none of {len(names):,} pictures can be read, "
                f"first {report.broken[0][1]}"
            )
        manifest = store.Manifest(
            version, str(root), here.name, spec.bits, spec.dims, tuple(maker.made), recall=recall
        )
        store.write_manifest(path, with_lists(path, manifest))
    return report


class _Segments:
    """Writes rows as the segments of one version."""

    def __init__(self, parent: Path, version: int) -> None:
        self.parent, self.version = parent, version
        self.made: list[Segment] = []

    def add(self, found: Rows | Segment | None) -> None:
        if isinstance(found, Segment):
            self.made.append(found)
        elif found is not None:
            for part in blocks(found, CHUNK):
                self.made.append(write_segment(self.parent, self._name(0), part))

    def parts(self, root: Path, names: Sequence[str], encoder: Path) -> list[Part]:
        """Parts of these pictures, whose segments come next."""
        size = max(1, min(CHUNK, -(-len(names) // PARTS)))
        return [
            Part(root, tuple(names[start : start + size]), encoder, self.parent, self._name(number))
            for number, start in enumerate(range(0, len(names), size))
        ]

    def _name(self, ahead: int) -> str:
        return f"{self.version:06d}-{len(self.made) + ahead:04d}"


def encode_part(part: Part, encoder: HashEncoder) -> tuple[Segment | None, Broken]:
    """Write the segment of a part; gives it and what cannot be read."""
    reads = read_files(part.root, part.names, encoder.spec.image_size, {})
    [(rows, broken)] = encoded(reads, encoder, {}, _no_rows(encoder.spec), len(part.names))
    segment = write_segment(part.segments, part.name, rows) if len(rows) else None
    return segment, [(read.name, read.problem) for read in broken]


def _here(root: Path, names: list[str], encoder: HashEncoder) -> Iterator[tuple[Rows, Broken]]:
    spec = encoder.spec
    reads = _counted(read_files(root, names, spec.image_size, {}), len(names))
    for rows, broken in encoded(reads, encoder, {}, _no_rows(spec), CHUNK):
        yield rows, [(read.name, read.problem) for read in broken]


def _no_rows(spec: EncoderSpec) -> Rows:
    codes, features = np.empty((0, spec.code_bytes), "u1"), np.empty((0, spec.dims), "i1")
    return Rows([], np.empty(0, FILES), codes, features, [])


def _learn(
    root: Path, names: list[str], here: Path, maker: _Segments, report: Report, bits: int
) -> tuple[list[str], EncoderSpec]:
    """Learn from the chosen pictures, whose features give the codes too; gives the other names."""
    from udmsh_pl.search import train

    picked = train.chosen(names)
    kept: list[Read] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for read in read_files(root, picked, train.image_size(), {}):
            if read.picture is None:
                report.broken.append((read.name, read.problem))
                continue
            prepared = read.picture.pixels
            # the features are what is needed from here on
            kept.append(replace(read, picture=replace(read.picture, pixels=prepared[:, :0])))
            yield prepared

    features = train.backbone_features(pixels(), len(picked))
    if not kept:
        raise InputError(f"{root}: none of the pictures can be read, first {report.broken[0][1]}")
    spec, head, told = train.learn(features, here, bits)
    report.lines.append(told)
    maker.add(rows_of(kept, *train.encode_features(head, features)))
    chosen = set(picked)
    return [name for name in names if name not in chosen], spec


def _with_rerank(encoder: HashEncoder, root: Path, names: list[str], here: Path) -> HashEncoder:
    from udmsh_pl.search import train
    from udmsh_pl.search.package import read_network

    few = np.random.default_rng(0).permutation(len(names))[: train.FUSED_FROM]
    reads = read_files(root, [names[row] for row in few], encoder.spec.image_size, {})
    pixels = (read.picture.pixels for read in reads if read.picture is not None)
    network = read_network(encoder.folder, encoder.spec)
    train.with_rerank(network, encoder.spec, pixels, here)
    return HashEncoder(here)


def _counted(reads: Iterator[Read], total: int) -> Iterator[Read]:
    if not total:
        return
    from udmsh_pl.search.encoder import bar

    yield from bar(reads, total)


def _is_index(path: Path) -> bool:
    return (path / store.MANIFEST).is_file()
