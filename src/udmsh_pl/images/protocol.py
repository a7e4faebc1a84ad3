"""The facts of a benchmark: how many images go where, and which publication says so."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from udmsh_pl.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """What a published number on a benchmark takes for granted about its data.

    Numbers under different protocols are never comparable, so the name travels with every result. A
    count of ``None`` means that the protocol does not fix it (a folder of the user's, a database
    that is "the rest").

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


def named(protocols: Mapping[str, Protocol], name: str) -> Protocol:
    """Protocol of a benchmark by its name.

    Raises:
        InputError: there is no such protocol; the message lists those that there are.
    """
    if name not in protocols:
        raise InputError(
            f"no protocol {name!r} here; give --data.protocol one of {', '.join(protocols)}"
        )
    return protocols[name]


def resized(protocol: Protocol, queries: int | None, train: int | None) -> Protocol:
    """The protocol with other numbers of queries and train images.

    Its name says so (``21-concepts-q42-t210``).

    Args:
        protocol: the published protocol.
        queries: number of queries; None for the protocol's.
        train: number of training images; None for the protocol's.

    Raises:
        InputError: a number below 1.
    """
    if queries is None and train is None:
        return protocol
    for argument, count in (("queries", queries), ("train", train)):
        if count is not None and count < 1:
            raise InputError(
                f"--data.{argument} is {count}; give a number of images, at least 1, or null"
            )
    queries, train = queries or protocol.queries, train or protocol.train
    return replace(
        protocol,
        name=f"{protocol.name}-q{queries}-t{train}",
        queries=queries,
        train=train,
        database=None,
    )
