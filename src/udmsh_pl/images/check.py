"""Look at every image of a benchmark once, before a long run does."""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList, Splits


@dataclass(frozen=True)
class Report:
    """What :func:`check_splits` found.

    Args:
        table: a line a split: images, images that the protocol names, unreadable and missing ones,
            labels, labels an image, images without any label.
        problems: what is off, one line each, with what mends it; empty when all is well.
        notes: what is worth knowing but not wrong.
        fingerprint: SHA-256 of the splits.
    """

    table: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


def check_splits(splits: Splits, workers: int = 1) -> Report:
    """Decode every image, in parallel, and compare the splits with their protocol.

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
    unreadable = _decode_all(splits, workers)
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
        bad = unreadable[name]
        missing = splits.missing.get(name, 0)
        expected, count = wanted[name], len(images)
        if expected is not None and count + missing != expected:
            problems.append(
                f"{name}: {count + missing} images where {protocol.dataset} {protocol.name} has "
                f"{expected}; "
                "complete the data, or name another protocol with --data.protocol"
            )
        if missing:
            notes.append(
                f"{name}: {missing} images are missing and left out; this enters the fingerprint"
            )
        problems += bad[:10]
        if len(bad) > 10:
            problems.append(f"{name}: and {len(bad) - 10} more unreadable images")
        rows.append([name, *_counts(images, expected, missing, len(bad))])
    if protocol.labels is not None and splits.database.labels.shape[1] != protocol.labels:
        problems.append(
            f"{splits.database.labels.shape[1]} labels where {protocol.dataset} {protocol.name} "
            f"has {protocol.labels}; "
            "take the lists of that protocol"
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


def _decode_all(splits: Splits, workers: int) -> dict[str, list[str]]:
    """Messages on unreadable images by split; an image in two splits is decoded once."""
    parts = splits.by_name()
    places: dict[str, tuple[str, int]] = {}
    for split, images in parts.items():
        for row, name in enumerate(images.names):
            places.setdefault(name, (split, row))
    tasks = list(places.values())
    bad: dict[str, str] = {}
    loader = DataLoader(
        _Decoded(parts, tasks), 64, num_workers=workers if workers > 1 else 0, collate_fn=list
    )
    messages: list[str] = []
    with tqdm(total=len(tasks), unit="img", desc="decode every image") as bar:
        for batch in loader:
            messages += batch
            bar.update(len(batch))
    bad = {
        parts[split].names[row]: text
        for (split, row), text in zip(tasks, messages, strict=True)
        if text
    }
    return {
        split: [bad[name] for name in images.names if name in bad]
        for split, images in parts.items()
    }


class _Decoded(Dataset[str]):
    """What is wrong with the image of each (split, row), or nothing."""

    def __init__(self, parts: dict[str, ImageList], tasks: list[tuple[str, int]]) -> None:
        self.parts, self.tasks = parts, tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, item: int) -> str:
        split, row = self.tasks[item]
        try:
            self.parts[split].load(row)
        except InputError as error:
            return str(error)
        return ""


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
