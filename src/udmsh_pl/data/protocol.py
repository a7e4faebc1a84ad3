"""The facts of a benchmark: how many images go where, and which publication says so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """What a published number on a benchmark takes for granted about its data.

    Numbers under different protocols are never comparable, so the name travels with every result. A count of
    ``None`` means that the protocol does not fix it (a folder of the user's, a database that is "the rest").

    Args:
        dataset: name of the benchmark as it stands in ``results.csv``, for example ``nuswide``.
        name: name of this protocol among those of the benchmark, for example ``21-concepts``.
        queries: number of query images.
        train: number of training images, used without their labels.
        database: number of images that are searched.
        labels: number of label columns.
        map_at: k of the mAP that the literature reports under this protocol; None for ALL.
        licence: terms of the images, in a few words.
        home: official home page of the images.
        paper: publication that defined the split, or whose code did.
    """

    dataset: str
    name: str
    queries: int | None
    train: int | None
    database: int | None
    labels: int | None
    map_at: int | None
    licence: str
    home: str
    paper: str
