"""The server: one process with a socket of its own, and the decoder's processes beside it."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from udmsh_pl.errors import InputError
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.api import UPLOAD_SECONDS, create_api
from udmsh_pl.serve.collection import Collection
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.middleware import AccessMiddleware, RateLimiter
from udmsh_pl.serve.service import Service

CONNECTIONS = 512  # at a time; the next are answered 503
Phase = Literal["head", "exchange", "rest"]
# seconds for a request's head, from there to the end of its answer, and from there to the next one;
# bodies have a limit of their own, and a connection that rests properly uvicorn closes before
SECONDS: Mapping[Phase, float] = {"head": 10, "exchange": 120, "rest": 60}


class Connection(H11Protocol):
    """uvicorn's protocol for one connection, with a time limit on each phase of it.

    uvicorn closes a connection that rests after an answer. One whose first request never comes
    whole, or whose answer is never read, would hold its place among ``CONNECTIONS`` for ever.
    """

    seconds: ClassVar[Mapping[Phase, float]] = SECONDS
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
        self._end = self.loop.call_later(self.seconds[phase], self.transport.abort)

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, on any free port for 0; raises InputError if it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host} is no address; 127.0.0.1 is this machine's own") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is taken; give --port another, or 0 for any") from error
        raise InputError(f"cannot listen on {host}, port {port} ({error.strerror})") from error
    return found


def server_of(
    service: Service, access: Access, limiter: RateLimiter | None = None,
    connection: type[Connection] = Connection, connections: int = CONNECTIONS,
    upload_seconds: float = UPLOAD_SECONDS,
) -> uvicorn.Server:  # fmt: skip
    """A server that is not running yet; nothing of a request is logged."""
    api = create_api(service, access, upload_seconds)
    app = AccessMiddleware(api, access, RateLimiter() if limiter is None else limiter)
    config = uvicorn.Config(
        app, http=connection, log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=connections, timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(path: Path, access: Access, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an index until the process is interrupted; calls ``ready`` when it can answer."""
    collection = Collection(path)
    with closing(Decoder()) as decoder:
        service = Service(collection, decoder)
        service.start()
        threading.Timer(0.1, ready).start()
        with suppress(KeyboardInterrupt):
            server_of(service, access).run(sockets=[sock])
