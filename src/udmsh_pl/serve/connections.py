"""Connections with an end: a client that sends or reads too slowly is hung up on.

uvicorn closes a connection that rests after an answer. One whose first request never comes whole,
or whose answer is never read, would hold its place among ``CONNECTIONS`` for ever.
"""

import asyncio
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

Phase = Literal["head", "exchange", "rest"]
# seconds for a request's head, from there to the end of its answer, and from there to the next one;
# bodies have a limit of their own, and a connection that rests properly uvicorn closes before
SECONDS: dict[Phase, float] = {"head": 10, "exchange": 120, "rest": 60}


class Connection(H11Protocol):
    """uvicorn's protocol for one connection, with a time limit on each phase of it."""

    _phase: Phase | None = None
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its request should follow."""
        super().connection_made(transport)
        self._enter("head")

    def data_received(self, data: bytes) -> None:
        """Bytes came, which alone buy no more time."""
        super().data_received(data)
        phase: Phase = "head" if self.conn.their_state is h11.IDLE else "exchange"
        if phase != self._phase:
            self._enter(phase)

    def on_response_complete(self) -> None:
        """An answer is written, to the system if not to the client; another may be under way."""
        super().on_response_complete()
        self._enter("rest" if self.conn.their_state is h11.IDLE else "exchange")

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        super().connection_lost(exc)
        self._stop()

    def _enter(self, phase: Phase) -> None:
        self._stop()
        self._phase = phase
        # at once, and not after what still waits to be sent
        self._end = self.loop.call_later(SECONDS[phase], self.transport.abort)

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()
