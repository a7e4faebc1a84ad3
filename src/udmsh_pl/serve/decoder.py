"""Strangers' pictures, opened in a few child processes with limits on time and memory."""

import queue
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.safe.child import Child, ChildFailure
from udmsh_pl.safe.untrusted import over
from udmsh_pl.search.pictures import Picture

CHILD = "udmsh_pl.serve.decoder_child"
WORKERS = 2
WAITING = 8  # tasks that may wait for a worker; the next is refused
SECONDS = 10.0  # that a picture may take; 64 million pixels take 3
WAIT_SECONDS = 20.0  # for a worker
MEMORY = 1 << 30  # bytes a picture may take beyond what an idle worker has
START_SECONDS = 60.0


class Undecodable(InputError):
    """A picture that cannot be opened; ``large``: only too large, in pixels, time or memory."""

    def __init__(self, reason: str, large: bool = False) -> None:
        super().__init__(reason)
        self.large = large


class Busy(Exception):
    """More pictures wait than may."""


class Decoder:
    """Opens pictures in processes of its own; one that takes too long is killed and replaced."""

    def __init__(
        self, workers: int = WORKERS, seconds: float = SECONDS, memory: int = MEMORY,
        waiting: int = WAITING,
    ) -> None:  # fmt: skip
        self._seconds, self._memory, self._closed = seconds, memory, False
        self._places = threading.BoundedSemaphore(workers + waiting)
        self._idle: queue.Queue[Child] = queue.Queue()
        for worker in [Child(CHILD, memory) for _ in range(workers)]:
            self._idle.put(_ready(worker))

    def query(self, content: bytes, side: int) -> Picture:
        """A stranger's picture, prepared for an encoder whose input is ``side`` pixels.

        Raises:
            Undecodable: damaged, of another format, or beyond a limit.
            Busy: too many wait.
        """
        (width, height), data = self._call("query", content, side)
        size = 3 * side * side
        if len(data) <= size:
            raise Undecodable("its decoder broke")
        pixels = np.frombuffer(data[:size], np.uint8).reshape(3, side, side)
        return Picture(pixels, data[size:], int(width), int(height))

    def show(self, content: bytes, side: int) -> bytes:
        """A picture as JPEG without metadata, its longer side at most ``side``; raises likewise."""
        return self._call("show", content, side)[1]

    def close(self) -> None:
        """End the processes that are idle; the others end with the server."""
        self._closed = True
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    def _call(self, function: str, content: bytes, side: int) -> tuple[Any, bytes]:
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            worker = self._idle.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            self._places.release()
            raise Busy from None
        try:
            return worker.call(function, side, content=content, seconds=self._seconds)
        except ChildFailure as failure:
            if failure.cause == "refused":
                too_large = over("PIXELS") in failure.text
                raise Undecodable(failure.text[:300], too_large) from failure
            large = {
                "memory": "it needs too much memory",
                "time": f"it takes more than {self._seconds:g} s to open",
            }
            reason = large.get(failure.cause, "its decoder broke")
            raise Undecodable(reason, failure.cause in large) from failure
        finally:
            if worker.alive:
                self._idle.put(worker)
            else:  # only those who need its successor wait for it
                threading.Thread(target=self._replace, args=(worker,), daemon=True).start()
            self._places.release()

    def _replace(self, worker: Child) -> None:
        worker.end()
        while not self._closed:
            with suppress(InputError, OSError):
                self._idle.put(_ready(Child(CHILD, self._memory)))
                return
            time.sleep(1)  # no memory, or no room for a process; it may come


def _ready(worker: Child) -> Child:
    try:
        worker.wait_until_ready(START_SECONDS)
    except ChildFailure as failure:
        worker.end()
        problem = f"a process to open pictures in cannot be started ({failure.text})"
        raise InputError(f"{problem}; free some memory") from failure
    return worker
