"""The facts of a benchmark, and the random draws that form its splits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """What a published number on a benchmark takes for granted about its data.

    Numbers under different protocols are never comparable, so the name travels with every result. A
    count of ``None`` means that the protocol does not fix it (a folder of the user's, a database
    that is "the rest").
    """

    dataset: str  # name of the benchmark as it stands in ``results.csv``, for example ``nuswide``
    name: str  # name of this protocol among those of the benchmark, for example ``21-concepts``
    queries: int | None = None  # number of query images
    train: int | None = None  # number of training images, used without their labels
    database: int | None = None  # number of images that are searched
    labels: int | None = None  # number of label columns
    # k of the mAP that the literature reports under this protocol; None for ALL
    map_at: int | None = None
    licence: str = "the owner's"  # terms of the images, in a few words
    home: str = ""  # official home page of the images
    paper: str = ""  # publication that defined the split, or whose code did

    def __str__(self) -> str:
        return f"{self.dataset} {self.name}"


def named(protocols: Mapping[str, Protocol], name: str) -> Protocol:
    """Protocol of a benchmark by its name; refuses others with a list of those that there are."""
    if name not in protocols:
        every = ", ".join(protocols)
        raise InputError(f"no protocol {name!r} here; give --data.protocol one of {every}")
    return protocols[name]


def resized(protocol: Protocol, queries: int | None, train: int | None) -> Protocol:
    """The protocol with other numbers of queries and train images, at least 1, where they are not
    None; its name says so (``21-concepts-q42-t210``).
    """
    if queries is None and train is None:
        return protocol
    for argument, count in (("queries", queries), ("train", train)):
        if count is not None and count < 1:
            raise InputError(f"--data.{argument} is {count}; give null or a number of at least 1")
    queries, train = queries or protocol.queries, train or protocol.train
    name = f"{protocol.name}-q{queries}-t{train}"
    return replace(protocol, name=name, queries=queries, train=train, database=None)


def draw(rows: Rows, counts: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random subsets of rows [N], each in ascending order; ``rest`` holds what is left.

    The seed and the order of ``counts``, sizes by name, decide the draw on every machine; refused
    where there are fewer rows than the subsets need.
    """
    needed = sum(counts.values())
    if needed > len(rows):
        wanted = ", ".join(f"{count} {name}" for name, count in counts.items())
        problem = f"the protocol draws {wanted} images, but only {len(rows)} are there"
        raise InputError(f"{problem}; complete the data set")
    order = _shuffled(np.random.PCG64(seed), np.asarray(rows, dtype=np.int64))
    ends = np.cumsum([0, *counts.values()])
    parts = {name: np.sort(order[ends[i] : ends[i + 1]]) for i, name in enumerate(counts)}
    return parts | {"rest": np.sort(order[needed:])}


def draw_per_label(labels: NDArray[np.bool_], counts: dict[str, int], seed: int) -> dict[str, Rows]:
    """``count`` random images *for each label* of [N, L]: ascending rows, ``count * L`` a subset.

    An image is drawn for one label and may carry others. Labels take their turn from the rarest to
    the most frequent, so that the frequent ones do not use up the images of the rare ones; subsets
    in the order of ``counts``. Refused where a label has fewer images left than a subset needs.
    """
    generator = np.random.PCG64(seed)
    free = np.ones(len(labels), dtype=np.bool_)
    parts: dict[str, Rows] = {}
    for name, count in counts.items():
        drawn: list[Rows] = []
        for label in np.argsort(labels.sum(axis=0), kind="stable").tolist():
            candidates = np.flatnonzero(labels[:, label] & free)
            if len(candidates) < count:
                raise InputError(
                    f"the protocol draws {count} {name} images for each label, but only "
                    f"{len(candidates)} images of label {label} are left; complete the data set or "
                    "take another protocol"
                )
            drawn.append(_shuffled(generator, candidates)[:count])
            free[drawn[-1]] = False
        parts[name] = np.sort(np.concatenate(drawn))
    return parts | {"rest": np.flatnonzero(free)}


def _shuffled(generator: np.random.PCG64, rows: Rows) -> Rows:
    # NumPy promises the raw stream of a bit generator for ever, but not that of permutation()
    shuffled: Rows = rows[np.argsort(generator.random_raw(len(rows)), kind="stable")]
    return shuffled
