"""Results that take longer than a request may: computed once, by one thread, and the last kept."""

import queue
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

KEPT = 8  # results
WAITING = 4  # tasks in the queue


class Full(Exception):
    """More tasks wait than may."""


class Jobs:
    """One thread that computes, and the last results."""

    def __init__(self) -> None:
        self._results: dict[Hashable, Future[Any]] = {}
        self._tasks: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(WAITING)
        self._lock = threading.Lock()
        # as a daemon it does not hold up the end of the server
        threading.Thread(target=self._work, daemon=True, name="udmsh-jobs").start()

    def result(self, key: Hashable, function: Callable[[], Any], wait: float = 0.0) -> Any:
        """What ``function`` gives, once a key, or None if it takes more than ``wait`` seconds.

        Raises:
            Full: too many tasks wait.
            Exception: what the function raised; the next call tries again.
        """
        with self._lock:
            future = self._results.get(key)
            if future is None:
                future = Future()
                try:
                    self._tasks.put_nowait((future, function))
                except queue.Full:
                    raise Full from None
                self._results[key] = future
                done = [one for one, other in self._results.items() if other.done()]
                for one in done[: max(0, len(self._results) - KEPT)]:
                    del self._results[one]
        try:
            return future.result(wait)
        except FutureTimeout:
            if not future.done():
                return None
            raise
        except BaseException:
            with self._lock:
                self._results.pop(key, None)
            raise

    def _work(self) -> None:
        while True:
            future, function = self._tasks.get()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
