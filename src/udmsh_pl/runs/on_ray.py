"""On a Ray cluster (extra ``udmsh-pl[cluster]``): cells of a plan, parts of an extraction, and
pictures of an index.

Each is a task with one GPU, or with a share of the cores where there is none. Nothing travels but
names: pictures, feature cache, run directory, index and current folder lie on a disk that all nodes
share, as with ``--shard``. A task that dies with its worker or its node is done once more
elsewhere; what is on the disk by then, blocks of features and finished teachers, is not made again.
"""

import logging
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.features.batches import CORES
from udmsh_pl.features.shards import Shard
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Cell
from udmsh_pl.runs.cells import Configuration, Runner
from udmsh_pl.runs.loggers import log_to
from udmsh_pl.safe.files import write_text
from udmsh_pl.search.build import Broken, Part, encode_part
from udmsh_pl.search.encoder import HashEncoder
from udmsh_pl.search.segment import Segment

RETRIES = 1
SHARDS = 64  # the same for any cluster, so that another one goes on with what this one leaves
Made = tuple[Segment | None, Broken]


class Place(NamedTuple):
    """Where a task finds what it needs."""

    folder: str  # current folder of the command, in which relative paths lie
    marks: tuple[str, ...]  # files that every node must see
    source: str
    overrides: tuple[str, ...]  # of the yaml

    def configuration(self) -> Configuration:
        """The configuration that the command parsed, in a task; see :func:`check_marks`."""
        check_marks(self.marks)
        os.chdir(self.folder)
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        return Configuration(Path(self.source), self.overrides)


@contextmanager
def cluster(address: str, configuration: Configuration, folders: Sequence[Path]) -> Iterator[Place]:
    """Connect to a cluster that runs a configuration; see :func:`connected`."""
    with connected(address, folders) as marks:
        yield Place(str(Path.cwd()), marks, str(configuration.source), configuration.overrides)


@contextmanager
def connected(address: str, folders: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Connect to a cluster, ``auto`` for that of this machine or ``host:port``; gives files, one in
    each folder that every node must see, for :func:`check_marks`. An InputError says that Ray is
    not installed, or that there is no cluster.
    """
    try:
        import ray
        from ray._private.services import get_ray_address_from_environment
    except ImportError as error:
        raise InputError("--ray needs the extra: pip install 'udmsh-pl[cluster]'") from error
    try:
        # a cluster that was killed leaves its address; Ray itself would try it for five minutes
        found = get_ray_address_from_environment(address, None) if address == "auto" else address
        host, _, port = found.rpartition(":")
        socket.create_connection((host, int(port)), 10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster is there; begin one with `ray start --head`, and "
            "join it from other machines with `ray start --address HOST:6379`"
        ) from error
    marks = [folder.expanduser().resolve() / f".ray-{uuid.uuid4().hex}" for folder in folders]
    try:
        for mark in marks:
            write_text(mark, "")
        yield tuple(str(mark) for mark in marks)
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
        ray.shutdown()


def check_marks(marks: Sequence[str]) -> None:
    """In a task: raise an :class:`InputError` where the node does not see what the command sees."""
    for mark in marks:
        if not Path(mark).is_file():
            raise InputError(
                f"node {platform.node()} does not see {Path(mark).parent}; --out, "
                "--data.cache_dir and the pictures must lie on a disk that all nodes share"
            )


def extract(place: Place, data: RetrievalDataModule) -> None:
    """Fill the feature cache, unless it is full; an InputError says why a part failed twice."""
    if all(data.feature_extractor.is_stored(images, views) for _, images, views in data.stores()):
        return
    parts = [(place, Shard(number, SHARDS)) for number in range(SHARDS)]
    _finish(_extract, parts, "features", "a part of the extraction failed")


def run_cells(place: Place, out: Path, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
    """Run cells; gives each as it ends, with the reason where it could not be finished."""
    for number, _, why in each(_run, [(place, str(out), cell) for cell in cells]):
        yield cells[number], why


def encode_on(address: str, parts: Sequence[Part]) -> Iterator[Made]:
    """Encode parts of an index on a cluster; gives what became of each, in their order."""
    if not parts:
        return
    with connected(address, [parts[0].segments.parent]) as marks:
        seen = (*marks, str(parts[0].root / parts[0].names[0]))
        tasks = [(seen, part) for part in parts]
        made = _finish(_encode, tasks, "encode", "pictures could not be encoded")
    yield from made


def _finish(
    task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], name: str, failure: str
) -> list[Any]:
    """What tasks give, in their order, behind a bar; an InputError where one fails twice."""
    found: dict[int, Any] = {}
    with tqdm(total=len(arguments), unit="part", desc=name) as bar:
        for number, made, why in each(task, arguments):
            if why is not None:
                raise InputError(f"{failure}; run it again. {why}")
            found[number] = made
            bar.update()
    return [found[number] for number in sorted(found)]


def each(
    task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any, str | None]]:
    """Numbers of tasks as they end, what they give, and why they failed, if they did: the task is
    called with each of the arguments, in a process that has a GPU or a share of the cores.
    """
    import ray

    gpus, cores = share_of(ray.nodes(), len(arguments))
    remote = ray.remote(_on_cores).options(
        num_gpus=gpus, num_cpus=cores, max_retries=RETRIES, retry_exceptions=True
    )
    running = {remote.remote(cores, task, *own): number for number, own in enumerate(arguments)}
    while running:
        [ended], _ = ray.wait(list(running))
        number, found, why = running.pop(ended), None, None
        try:
            found = ray.get(ended)
        except ray.exceptions.RayError as error:
            if isinstance(mistake := getattr(error, "cause", None), InputError):
                raise InputError(str(mistake)) from error
            why = str(error)
        yield number, found, why


def share_of(nodes: Sequence[dict[str, Any]], tasks: int) -> tuple[int, int]:
    """GPUs and cores of a task: one GPU and its node's cores by GPU, or cores alone."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpu = [have for have in alive if have.get("GPU", 0) >= 1]
    if with_gpu:
        return 1, max(1, int(min(have.get("CPU", 1) // have["GPU"] for have in with_gpu)))
    every = [have["CPU"] for have in alive if have.get("CPU", 0) >= 1] or [1]
    return 0, max(1, int(min(*every, sum(every) // max(1, tasks))))


# in tasks: a worker does many, and looks once at every picture's file (a store's key needs it),
# opens features once, and builds an encoder once


def _on_cores(cores: int, task: Callable[..., Any], *arguments: Any) -> Any:
    os.environ[CORES] = str(cores)
    torch.set_num_threads(cores)
    return task(*arguments)


def _extract(place: Place, shard: Shard) -> None:
    data, keys = _stores(place)
    for (_, images, views), key in zip(data.stores(), keys, strict=True):
        data.feature_extractor.make_shard(images, shard, views, key=key)


@lru_cache(maxsize=1)
def _stores(place: Place) -> tuple[RetrievalDataModule, list[dict[str, Any]]]:
    data = place.configuration().datamodule()
    extractor = data.feature_extractor
    return data, [extractor.key(images, views, 0) for _, images, views in data.stores()]


def _run(place: Place, out: str, cell: Cell) -> None:
    """Run a cell, or wait for the process that runs it already."""
    run = _runner(place, out)
    while run.run(cell) == "runs elsewhere":  # or a node that died has not yet let go of it
        time.sleep(0.5)


@lru_cache(maxsize=1)
def _runner(place: Place, out: str) -> Runner:
    configuration = place.configuration()
    log_to(Path(out) / "log.txt")
    run = Runner(configuration, configuration.plan, RunDirectory(Path(out)))
    run.prepare()
    return run


def _encode(seen: tuple[str, ...], part: Part) -> Made:
    check_marks(seen)
    return encode_part(part, _encoder(part.encoder))


_encoder = lru_cache(maxsize=1)(HashEncoder)
