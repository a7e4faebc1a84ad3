"""An index with an encoder that takes no time, a server in this process, and a client that sends
what it is told to.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search import encoder as encoder_module
from udmsh_pl.search.build import build_index
from udmsh_pl.search.encoder import Encoded
from udmsh_pl.search.spec import EncoderSpec, write_spec

SIDE, BITS, DIMS = 32, 16, 48
COARSE = 4  # cells of a side that a code looks at


def quick(pixels: NDArray[np.uint8]) -> Encoded:
    """Codes and features of a picture's coarse colours."""
    cell = SIDE // COARSE
    cells = pixels.reshape(len(pixels), 3, COARSE, cell, COARSE, cell).mean((3, 5))
    features = (cells.reshape(len(pixels), DIMS) - 128).round().clip(-127, 127).astype(np.int8)
    return np.packbits(features[:, ::3] > 0, axis=1), features


def use_quick_encoder() -> None:
    """Every encoder of this process is :func:`quick` from here on."""
    encoder_module.runner_of = lambda *_: quick  # type: ignore[assignment]


def draw(path: Path, seed: int, size: tuple[int, int] = (128, 96)) -> Path:
    """A picture of coarse random squares."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def make_collection(root: Path, count: int = 12) -> Path:
    """``root/pictures`` (with a small copy of 03.png) and its ``root/index``; gives the index."""
    pictures = root / "pictures"
    (pictures / "below").mkdir(parents=True)
    for number in range(count - 1):
        draw(pictures / f"{number:02d}.png", number)
    draw(pictures / "below/last.png", count)
    with Image.open(pictures / "03.png") as image:
        image.resize((64, 48)).save(pictures / "03 small.jpg")
    spec = EncoderSpec(
        "SignEncoder", {}, "none", "none", False, SIDE, (0, 0, 0), (1, 1, 1), 2, BITS, DIMS, "quick"
    )
    (root / "encoder").mkdir()
    write_spec(root / "encoder", spec)
    build_index(root / "index", pictures, HashEncoder(root / "encoder"))
    return root / "index"


def update(index: Path) -> None:
    """What ``udmsh index`` does when the pictures have changed."""
    ImageIndex.open(index).update()


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a server; a header whose value is None is left out."""

    def __init__(self, port: int, token: str = "", timeout: float = 30) -> None:
        self.port, self.token, self.timeout = port, token, timeout

    def finished(self, path: str) -> Answer:
        """The answer to a question that a busy machine asks to be put again."""
        while (answer := self(path)).status == 202:
            time.sleep(0.2)
        return answer

    def __call__(
        self, path: str, method: str = "GET", body: Any = None, **headers: str | None
    ) -> Answer:
        given: dict[str, str | None] = {"host": f"127.0.0.1:{self.port}"}
        if self.token:
            given["authorization"] = f"Bearer {self.token}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "content-length" not in given:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()


@contextmanager
def running(service: Any, access: Any, sock: Any, **options: Any) -> Iterator[Client]:
    """A client of a server that runs in a thread; options are those of ``server_of``."""
    from udmsh_pl.serve.server import server_of

    server = server_of(service, access, **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    try:
        yield Client(access.port, access.token)
    finally:
        server.should_exit = True
        thread.join(20)
