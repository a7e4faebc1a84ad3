"""A few processes that stand ready to open strangers' pictures, each with limits on time and
memory.
"""

import json
import multiprocessing
import queue
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.search.pictures import Picture
from udmsh_pl.serve.decoder_child import work

WORKERS = 2
WAITING = 8  # tasks that may wait for a worker; the next is told to come again
SECONDS = 10.0  # a picture may take; 64 million pixels take 3
WAIT_SECONDS = 20.0  # for a worker
MEMORY = 1 << 30  # bytes a picture may take beyond what an idle worker has
START_SECONDS = 60.0
MOST_ANSWER = 1 << 26  # bytes


class Undecodable(InputError):
    """A picture that cannot be opened.

    Attributes:
        large: whether it is only too large, in pixels, time or memory.
    """

    large: bool = False


class Busy(Exception):
    """More pictures wait than may."""


class Decoder:
    """Opens pictures in processes of its own.

    Args:
        workers: processes, and so pictures at a time
        seconds: a picture may take; its worker is killed then, and replaced
        memory: bytes a picture may take
    """

    def __init__(
        self, workers: int = WORKERS, seconds: float = SECONDS, memory: int = MEMORY
    ) -> None:
        self._seconds, self._memory, self._closed = seconds, memory, False
        self._places = threading.BoundedSemaphore(workers + WAITING)
        self._idle: queue.Queue[_Worker] = queue.Queue()
        started = [_Worker(memory) for _ in range(workers)]
        for worker in started:
            worker.wait_until_ready()
            self._idle.put(worker)

    def query(self, content: bytes, side: int) -> Picture:
        """A stranger's picture, prepared for an encoder whose input is ``side`` pixels.

        Raises:
            Undecodable: damaged, of another format, or beyond a limit.
            Busy: too many wait.
        """
        facts, data = self._answer("query", content, side)
        size = 3 * side * side
        if len(data) <= size:
            raise Undecodable("its decoder broke")
        pixels = np.frombuffer(data[:size], np.uint8).reshape(3, side, side)
        return Picture(pixels, data[size:], int(facts["width"]), int(facts["height"]))

    def show(self, content: bytes, side: int) -> bytes:
        """A picture as JPEG without its metadata, the longer side at most ``side`` pixels.

        Raises:
            Undecodable: as :meth:`query`.
            Busy: too many wait.
        """
        return self._answer("show", content, side)[1]

    def close(self) -> None:
        """End the processes that are idle; the others end with the server."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().end()
            except queue.Empty:
                return

    def _answer(self, kind: str, content: bytes, side: int) -> tuple[dict[str, Any], bytes]:
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            worker = self._idle.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            self._places.release()
            raise Busy from None
        try:
            facts, data = worker.ask({"kind": kind, "side": side}, content, self._seconds)
        finally:
            if worker.alive:
                self._idle.put(worker)
            else:  # nobody waits for its successor but who needs it
                threading.Thread(target=self._replace, args=(worker,), daemon=True).start()
            self._places.release()
        if "problem" in facts:
            failure = Undecodable(str(facts["problem"])[:300])
            failure.large = facts.get("large") is True
            raise failure
        return facts, data

    def _replace(self, worker: "_Worker") -> None:
        worker.end()
        while not self._closed:
            with suppress(InputError, OSError, EOFError):
                successor = _Worker(self._memory)
                successor.wait_until_ready()
                self._idle.put(successor)
                return
            time.sleep(1)  # no memory, or no room for a process; it may come


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, memory: int) -> None:
        context = multiprocessing.get_context("spawn")  # it shall inherit nothing
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=work, args=(its_end, memory), daemon=True)
        self._process.start()
        its_end.close()
        self.alive = True

    def wait_until_ready(self) -> None:
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv_bytes(16) != b"ready":
            raise InputError("a process to open pictures in cannot be started; free some memory")

    def ask(
        self, task: dict[str, Any], content: bytes, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        pipe = self._pipe
        try:
            pipe.send_bytes(json.dumps(task).encode() + b"\n" + content)
            if not pipe.poll(seconds):
                self.alive = False
                return {"problem": f"it takes more than {seconds:g} s to open", "large": True}, b""
            head, _, data = pipe.recv_bytes(MOST_ANSWER).partition(b"\n")
            return dict(json.loads(head)), data
        except (EOFError, OSError, ValueError):  # it was killed, or wrote what is no answer
            self.alive = False
            return {"problem": "its decoder broke", "large": False}, b""

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
