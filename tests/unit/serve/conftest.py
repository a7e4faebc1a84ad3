"""A served collection, and the processes that decode for it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from tests.serving import Client, make_collection, quick, running

pytest.importorskip("fastapi", reason="needs the extra udmsh-pl[serve]")
pytest.importorskip("uvicorn", reason="needs the extra udmsh-pl[serve]")

from udmsh_pl.serve.access import Access
from udmsh_pl.serve.collection import Collection
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.server import listening
from udmsh_pl.serve.service import Service

TOKEN = "a token of the tests"
Serve = Callable[..., Client]
Options = Mapping[str, Any]


@pytest.fixture(autouse=True)
def quick_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: quick)


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(workers=1)) as one:
        yield one


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: quick)
        yield make_collection(tmp_path_factory.mktemp("served"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An index of a test's own."""
    return make_collection(tmp_path)


@pytest.fixture
def serve(decoder: Decoder) -> Iterator[Serve]:
    """Function that serves an index and gives a client.

    Args:
        index: the index's folder, checked before each answer
        service: options of Service
        server: options of ``server_of``
        options: of Access
    """
    with ExitStack() as stack:

        def start(
            index: Path,
            service: Options | None = None,
            server: Options | None = None,
            **options: Any,
        ) -> Client:
            sock = listening("127.0.0.1", 0)
            given = {"host": "127.0.0.1", "port": sock.getsockname()[1]} | options
            answers = Service(Collection(index, check_seconds=0.0), decoder, **(service or {}))
            return stack.enter_context(running(answers, Access(**given), sock, **(server or {})))

        yield start


@pytest.fixture(scope="module")
def client(index: Path, decoder: Decoder) -> Iterator[Client]:
    """Of a server without token that all tests of a file share."""
    sock = listening("127.0.0.1", 0)
    access = Access("127.0.0.1", sock.getsockname()[1])
    with running(Service(Collection(index, check_seconds=0.0), decoder), access, sock) as one:
        yield one
