"""The server: one process with a socket of its own, and the decoder's processes beside it."""

import errno
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import uvicorn

from udmsh_pl.errors import InputError
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.api import create_api
from udmsh_pl.serve.collection import Collection
from udmsh_pl.serve.connections import Connection
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.guard import Guard
from udmsh_pl.serve.limits import Buckets
from udmsh_pl.serve.service import Service

CONNECTIONS = 512  # at a time; the next are answered 503


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        InputError: the address is none of this machine's, or the port is taken.
    """
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


def server_of(service: Service, access: Access, buckets: Buckets | None = None) -> uvicorn.Server:
    """A server that is not running yet; nothing of a request is logged."""
    app = Guard(create_api(service, access), access, buckets or Buckets())
    return uvicorn.Server(
        uvicorn.Config(
            app, http=Connection, log_level="warning", access_log=False, server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=3,
        )
    )  # fmt: skip


def serve(path: Path, access: Access, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an index until the process is interrupted.

    Args:
        path: the index's folder
        access: who may ask
        sock: that listens
        ready: called when the first request can be answered
    """
    collection = Collection(path)
    with closing(Decoder()) as decoder:
        service = Service(collection, decoder)
        service.start()
        threading.Timer(0.1, ready).start()
        with suppress(KeyboardInterrupt):
            server_of(service, access).run(sockets=[sock])
