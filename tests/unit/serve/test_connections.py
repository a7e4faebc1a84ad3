"""Clients that hold a connection without asking or without reading are hung up on."""

import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.serving import Client

from udmsh_pl.serve import connections, server

from .conftest import Serve

HEAD = "GET /static/app.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for phase in connections.SECONDS:
        monkeypatch.setitem(connections.SECONDS, phase, 0.5)


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
def test_a_head_that_never_ends(client: Client, impatient: None, asked_before: bool) -> None:
    """Slow loris: a few bytes now and then buy no time, after an answer neither."""
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


def test_silence_does_not_keep_others_out(
    serve: Serve, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 20)
    monkeypatch.setitem(connections.SECONDS, "head", 2)
    client = serve(index)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(client)) for _ in range(25)]
        assert client("/info").status == 503
        assert to_the_end(silent[0]) == b""
        while client("/info").status == 503:  # the others' time is up next
            time.sleep(0.1)


def test_an_answer_that_nobody_reads(
    client: Client, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HEAD.format(port=client.port).encode() + b"\r\n"
    with connected(client) as raw:
        own, lost = raw.getsockname()[1], threading.Event()
        end = connections.Connection.connection_lost

        def told(connection: connections.Connection, error: Exception | None) -> None:
            end(connection, error)
            if connection.client is not None and connection.client[1] == own:
                lost.set()

        monkeypatch.setattr(connections.Connection, "connection_lost", told)
        raw.sendall(900 * head)  # answers of more bytes than the system keeps
        assert lost.wait(20)
