"""How much one client may ask for, and how much all of them at once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

A_SECOND, AT_ONCE = 200.0, 1000.0  # cost that a client may cause
MOST_CLIENTS = 4096  # remembered
COSTS = {"/search": 10.0, "/picture": 5.0, "/duplicates": 5.0, "/map": 5.0, "/login": 20.0}
REFUSED = 20.0  # what a wrong token costs beside: ten guesses a second


class Buckets:
    """A bucket of allowance a client, refilled as time goes by.

    Args:
        a_second: allowance a second
        at_once: size of the bucket
        clock: seconds
    """

    def __init__(
        self,
        a_second: float = A_SECOND,
        at_once: float = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.a_second, self.at_once, self._clock = a_second, at_once, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, cost: float) -> bool:
        """Whether the client has that much left; it is taken if so."""
        now = self._clock()
        left, then = self._left.pop(client, (self.at_once, now))
        left = min(self.at_once, left + (now - then) * self.a_second)
        allowed = left >= cost
        self._left[client] = (left - cost if allowed else left), now
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return allowed

    def fine(self, client: str, cost: float) -> None:
        """Take that much, down to nothing."""
        if not self.take(client, cost):
            self._left[client] = 0.0, self._clock()


def cost_of(path: str) -> float:
    """What a request for a path costs."""
    return COSTS.get("/" + path.split("/")[1] if "/" in path else "", 1.0)


class Gate:
    """Lets so many in at once, and sends the others away."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)

    @contextmanager
    def enter(self, full: Exception) -> Iterator[None]:
        """Hold a place, or raise ``full``."""
        if not self._places.acquire(blocking=False):
            raise full
        try:
            yield
        finally:
            self._places.release()
