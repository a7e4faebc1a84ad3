"""Work on pictures ahead of the one who waits for it: in threads, in order, batch by batch.

Pillow releases the global interpreter lock, so threads keep all cores busy decoding.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

AHEAD = 64  # pictures that may wait, decoded, for the encoder: a batch

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    function: Callable[[T], R], items: Iterable[T], waiting_most: int = AHEAD
) -> Iterator[R]:
    """``function`` of each item, in order, in as many threads as there are cores, and so many
    results ahead: a batch of pictures.
    """
    threads = os.cpu_count() or 1
    waiting: list[Future[R]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > waiting_most + threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def ahead(items: Iterable[T], start: Callable[[], None] | None = None) -> Iterator[T]:
    """The same items, each made ahead of its use in a thread, which begins with ``start``."""
    rest, end = iter(items), object()
    with ThreadPoolExecutor(1, initializer=start) as thread:
        coming = thread.submit(next, rest, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, rest, end)
            yield item  # type: ignore[misc]
