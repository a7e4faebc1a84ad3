"""Clients that hold a connection without asking or without reading are hung up on."""

import socket
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.serving import Client

from udmsh_pl.serve.server import SECONDS, Connection

from .conftest import Serve

HEAD = "GET /static/app.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"


class Impatient(Connection):
    seconds = dict.fromkeys(SECONDS, 0.5)


class Hasty(Connection):
    seconds = {**SECONDS, "head": 2}  # noqa: RUF012


def connected(client: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=20)


def to_the_end(raw: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    found = b""
    with suppress(ConnectionResetError):
        while block := raw.recv(1 << 20):
            found += block
    return found


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_head_that_never_ends(serve: Serve, index: Path, asked_before: bool) -> None:
    """Slow loris: a few bytes now and then buy no time, after an answer neither."""
    client = serve(index, server={"connection": Impatient})
    head = HEAD.format(port=client.port).encode()
    with connected(client) as raw:
        if asked_before:
            raw.sendall(head + b"\r\n")
            assert raw.recv(1) == b"H"
        raw.sendall(head)
        start = time.monotonic()
        with suppress(OSError):
            while time.monotonic() < start + 10:
                raw.sendall(b"X")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - start < 5


def test_silence_does_not_keep_others_out(serve: Serve, index: Path) -> None:
    client = serve(index, server={"connection": Hasty, "connections": 20})
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(client)) for _ in range(25)]
        assert client("/info").status == 503
        assert to_the_end(silent[0]) == b""
        while client("/info").status == 503:  # the others' time is up next
            time.sleep(0.1)


def test_an_answer_that_nobody_reads(serve: Serve, index: Path) -> None:
    lost: dict[int, threading.Event] = defaultdict(threading.Event)

    class Watched(Impatient):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            if self.client is not None:
                lost[self.client[1]].set()

    client = serve(index, server={"connection": Watched})
    head = HEAD.format(port=client.port).encode() + b"\r\n"
    with connected(client) as raw:
        own = raw.getsockname()[1]
        raw.sendall(900 * head)  # answers of more bytes than the system keeps
        assert lost[own].wait(20)
