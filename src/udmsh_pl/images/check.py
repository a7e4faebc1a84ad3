"""Look at every image of a benchmark once, before a long run does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.names import spelling
from udmsh_pl.images.usable import ABSENT, Reasons, find_broken_in
from udmsh_pl.images.walk import SKIPPED, skipped_line


@dataclass(frozen=True)
class Report:
    """What :func:`check_splits` found.

    Args:
        table: a line a split: images, images that the protocol names, unreadable and missing ones,
            labels, labels an image, images without any label.
        problems: what is off, one line each, with what mends it; empty when all is well. A file
            stands once, in however many splits it is.
        notes: what is worth knowing but not wrong.
        fingerprint: SHA-256 of the splits.
    """

    table: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


def check_splits(splits: Splits, workers: int = 1) -> Report:
    """Decode every image, in parallel and with a progress bar, and compare the splits with their
    protocol.

    Presence, overlap of queries and database, and repeated names are checked where splits are made;
    this adds what costs time (decoding) and what a protocol promises (counts, labels that no image
    carries).

    Args:
        splits: what to check.
        workers: processes that decode; 0 or 1 decodes in this one.
    """
    problems: list[str] = []
    notes: list[str] = []
    protocol = splits.protocol
    wanted = {"query": protocol.queries, "train": protocol.train, "database": protocol.database}
    broken = find_broken_in(splits, workers)
    header = [
        "split",
        "images",
        "protocol",
        "missing",
        "unreadable",
        "labels",
        "labels/image",
        "without label",
    ]
    rows = [header]
    for name, images in splits.by_name().items():
        bad = sum(one in broken for one in images.names)
        missing = splits.missing.get(name, 0)
        expected, count = wanted[name], len(images)
        if expected is not None and count + missing != expected:
            problems.append(
                f"{name}: {count + missing} images where {protocol.dataset} {protocol.name} has "
                f"{expected}; complete the data, or name another protocol with --data.protocol"
            )
        if missing:
            notes.append(
                f"{name}: {missing} images are missing and left out; this enters the fingerprint"
            )
        rows.append([name, *_counts(images, expected, missing, bad)])
    problems += broken_lines(broken, splits.database)
    if protocol.labels is not None and splits.database.labels.shape[1] != protocol.labels:
        problems.append(
            f"{splits.database.labels.shape[1]} labels where {protocol.dataset} {protocol.name} "
            f"has {protocol.labels}; take the lists of that protocol"
        )
    if splits.query is not None:
        query, database = splits.query.labels, splits.database.labels
        alone = int((query.any(axis=1) & ~(query @ database.any(axis=0))).sum())
        if alone:
            notes.append(
                f"query: {alone} queries share no label with any database image; they score 0"
            )
        if (~query.any(axis=1)).any():
            notes.append(
                f"query: {int((~query.any(axis=1)).sum())} queries have no label; they score 0"
            )
    return Report(_table(rows), tuple(problems), tuple(notes), splits.fingerprint())


def _counts(images: ImageList, expected: int | None, missing: int, bad: int) -> list[str]:
    per_image = images.labels.sum(axis=1)
    return [
        f"{len(images):,}",
        "any" if expected is None else f"{expected:,}",
        f"{missing:,}",
        f"{bad:,}",
        f"{images.labels.shape[1]}",
        f"{per_image.mean():.2f}",
        f"{int(np.count_nonzero(per_image == 0)):,}",
    ]


def broken_lines(broken: Reasons, images: ImageList, root: str = "--data.root") -> list[str]:
    """A line on each picture that cannot be read, with what mends it."""
    lines = []
    for name, reason in broken.items():
        path = name if images.root is None else images.root / name
        problem, mend = f"not a readable image ({reason})", "fetch that file again or remove it"
        if reason == ABSENT:
            mend = spelling(Path(path)) or f"set {root} to the folder that holds it"
            problem = reason
        lines.append(f"{path}: {problem}; {mend}")
    return lines


def split_lines(splits: Splits, folder: Path) -> list[str]:
    """A line on the sizes of the splits, and one on what was left out, which
    :func:`udmsh_pl.images.walk.write_skipped` lists in ``folder``.
    """
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in splits.by_name().items())
    lines = [f"{splits.protocol.dataset}, protocol {splits.protocol_name}: {sizes} images"]
    if splits.skipped:
        lines.append(f"{skipped_line(splits.skipped)}; all are in {folder / SKIPPED}")
    return lines


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
