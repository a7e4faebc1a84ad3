"""20,000 hostile requests and uploads: no 500, no file from outside of the collection, bounded
memory, and afterwards the server answers as before.

    python -m tests.integration.test_hostile_requests 20000 [SEED]

sends that many and prints what was answered.
"""

import io
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from PIL import Image

from tests.serving import Client, draw, make_collection, use_quick_encoder

TOKEN = "a token of the tests"
SECRET = b"what must never be sent"
PICTURES = 13
MOST_GROWTH = (2 << 30) + (256 << 20)  # bytes: two decoders, and eight uploads
SERVER = """
import sys
from pathlib import Path
from tests.serving import use_quick_encoder
from udmsh_pl.serve.decoder import Decoder
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.collection import Collection
from udmsh_pl.serve.middleware import RateLimiter
from udmsh_pl.serve.server import listening, server_of
from udmsh_pl.serve.service import Service

if __name__ == "__main__":
    use_quick_encoder()
    sock = listening("127.0.0.1", 0)
    access = Access("127.0.0.1", sock.getsockname()[1], sys.argv[2])
    service = Service(Collection(Path(sys.argv[1])), Decoder(seconds=5.0))
    print(access.port, flush=True)
    server_of(service, access, RateLimiter(1e12, 1e12)).run(sockets=[sock])
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes and many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 2) * min(height, 9000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def honest_pictures(place: Path) -> list[bytes]:
    """Files of the collection, and one of each other format."""
    found = [path.read_bytes() for path in sorted((place / "pictures").rglob("*.*g"))]
    for kind in ("WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "AVIF"):
        stream = io.BytesIO()
        with suppress(OSError, KeyError):  # this Pillow does not write it
            Image.new("RGB", (60, 40), "teal").save(stream, kind)
            found.append(stream.getvalue())
    return found


PATHS = r"""
../secret.txt ..%2f..%2fsecret.txt %2e%2e/secret.txt /etc/passwd ....//secret.txt ..%252fsecret.txt
..\secret.txt %00 secret.txt%00.js file:///etc/passwd app.js/../../api.py -1 1e9 0x1 NaN %D9%A1
999999999999999999999999999999 1.5 true [] {id}
"""
NUMBERS = "-1 0 1 12 13 500 501 1e3 9999999999999999999999999 NaN inf x 1;2 %00 %D9%A3".split()  # noqa: SIM905
HOSTS = """
evil.example 127.0.0.1.evil.example 127.0.0.1:99999999 [::1 127.0.0.1:80:80 user@127.0.0.1 \xff\xfe
"""
ORIGINS = ("http://evil.example", "null", "", "file://", "http://127.0.0.1:1")
NO_PICTURES = (
    b"", b"<svg onload=alert(1)>", b"%PDF-1.7", b"GIF89a", b"\xff\xd8\xff", b"%!PS", SECRET,
    b"II*\0\xff\xff\xff\xff", b"PK\3\4",
)  # fmt: skip
LOGINS = (
    b'{"token": "guess"}', b"{", b"[]", b"null", b'{"token": 1}', b"[" * 2000, b"\xff",
    b'{"token": "' + b"x" * 3000 + b'"}',
)  # fmt: skip
METHODS = ["PUT", "DELETE", "TRACE", "OPTIONS", "PROPFIND", "CONNECT", "HEAD"]
BASES = ["/thumbnail/", "/picture/", "/similar/", "/static/", "/", "/map/", "/info/"]
LISTS = ["/map", "/duplicates", "/pictures", "/info", "/openapi.json"]
POST = "POST /search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
RAW = (
    b"GET /../../secret.txt HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01", b"GET http://evil/ HTTP/1.1\r\nHost: evil\r\n\r\n", b"\0" * 200,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
BODIES = (  # behind the head of a POST
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", b"Content-Length: -5\r\n\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    b"Content-Length: 100\r\n\r\nhalf",
)  # fmt: skip


class Enemy:
    """Makes requests that nobody honest would make."""

    def __init__(self, seed: int, place: Path, pictures: list[bytes], bombs: list[bytes]) -> None:
        self.random, self.pictures, self.bombs = random.Random(seed), pictures, bombs
        self.paths = [*PATHS.split(), str(place / "secret.txt"), "9" * 5000, "' OR 1=1 --", ""]

    def path(self) -> str:
        one = self.random
        base = one.choice(BASES)
        rest = one.choice(self.paths) if one.random() < 0.6 else str(one.randrange(PICTURES + 3))
        if one.random() < 0.25:
            base, rest = one.choice(LISTS), ""
        names = ["k", "radius", "version", "limit", "offset", "name", "token", "__proto__", "k[]"]
        query = "&".join(
            f"{one.choice(names)}={one.choice(NUMBERS)}" for _ in range(one.randrange(4))
        )
        text = base + rest + ("?" + query if query else "")
        return re.sub(r"[^\x21-\x7e]", lambda found: "%%%02X" % (ord(found.group()) % 256), text)

    def body(self) -> bytes:
        one = self.random
        kind = one.random()
        if kind < 0.01:
            return one.choice(self.bombs)
        if kind < 0.3:
            return one.randbytes(one.randrange(3000))
        if kind < 0.4:
            return one.choice(NO_PICTURES)
        content = bytearray(one.choice(self.pictures))
        for _ in range(one.randrange(12)):  # a picture with errors
            content[one.randrange(len(content))] = one.randrange(256)
        return bytes(content[: one.randrange(len(content))] if one.random() < 0.3 else content)

    def ask(self, client: Client) -> tuple[str, int, bytes]:
        """Send one request; gives its kind, the status (0: hung up on) and the answer."""
        one = self.random
        kind = one.choices(
            ["path", "upload", "host", "origin", "token", "login", "method", "raw", "huge"],
            [35, 30, 6, 6, 8, 5, 5, 4, 1],
        )[0]
        try:
            if kind == "raw":
                return kind, *self.raw(client)
            if kind == "upload":
                found = client(f"/search?k={one.choice(NUMBERS[1:6])}", "POST", self.body())
            elif kind == "host":
                host = one.choice([*HOSTS.split(), "", "a" * 5000])
                found = client(self.path(), host=host)
            elif kind == "origin":
                found = client("/search", "POST", self.body(), origin=one.choice(ORIGINS))
            elif kind == "token":
                guess = one.choice(
                    [None, "Bearer", "Bearer " + "x" * 20, "Basic eA==", "Bearer \xff"]
                )
                found = client(self.path(), authorization=guess)
            elif kind == "login":
                text = one.choice(LOGINS)
                found = client("/login", "POST", text, content_type="application/json")
            elif kind == "huge":
                found = client(
                    "/search",
                    "POST",
                    b"x" * 100,
                    content_length=str(one.choice([2**25 + 1, 2**40])),
                )
            else:
                method = one.choice(METHODS) if kind == "method" else "GET"
                found = client(self.path(), method)
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, TimeoutError):
                raise
            return kind, 0, b""
        return kind, found.status, found.body

    def raw(self, client: Client) -> tuple[int, bytes]:
        one = self.random
        head = POST.format(port=client.port).encode()
        noise = one.randbytes(300) + b"\r\n\r\n"
        lines = [*RAW, *(head + body for body in BODIES), noise]
        with socket.create_connection(("127.0.0.1", client.port), timeout=60) as raw:
            raw.sendall(one.choice(lines))
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while block := raw.recv(1 << 16):
                answer += block
        status = re.match(rb"HTTP/1.1 (\d+)", answer)
        return int(status[1]) if status else 0, answer


def memory(process: int) -> int:
    """Bytes that a process and its children hold, by the kernel."""
    total, waiting = 0, [process]
    while waiting:
        one = waiting.pop()
        try:
            text = Path(f"/proc/{one}/statm").read_text()
            children = Path(f"/proc/{one}/task/{one}/children").read_text()
        except OSError:
            continue
        total += int(text.split()[1]) * 4096
        waiting += map(int, children.split())
    return total


def attack(root: Path, count: int, seed: int) -> tuple[Counter[tuple[str, int]], int, int]:
    """Attack a server of a collection; gives kinds and statuses, memory at first and at most."""
    use_quick_encoder()
    index = make_collection(root)
    (root / "secret.txt").write_bytes(SECRET)
    draw(root / "secret.png", 999)
    (root / "pictures/04.png").unlink()
    (root / "pictures/04.png").symlink_to(root / "secret.png")  # indexed as another picture
    (root / "server.py").write_text(SERVER)
    answers: Counter[tuple[str, int]] = Counter()
    with subprocess.Popen(
        [sys.executable, str(root / "server.py"), str(index), TOKEN], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            client = Client(int(process.stdout.readline()), TOKEN, 120)
            while client("/info").status != 200:
                time.sleep(0.1)
            right = client("/similar/3").json["results"]
            first = most = memory(process.pid)
            per_thread = 50
            pictures = honest_pictures(root)
            shapes = ((60_000, 60_000), (7900, 8000), (2**31 - 1, 1), (1, 64_000_000))
            bombs = [bomb(width, height) for width, height in shapes]

            def burst(number: int) -> list[tuple[str, int, bytes]]:
                enemy = Enemy(seed * 1_000_003 + number, root, pictures, bombs)
                return [enemy.ask(client) for _ in range(per_thread)]

            with ThreadPoolExecutor(6) as pool:
                for found in pool.map(burst, range(count // per_thread)):
                    most = max(most, memory(process.pid))
                    for kind, status, body in found:
                        answers[kind, status] += 1
                        assert SECRET not in body, (kind, status)
                        assert b"Traceback" not in body, body[:2000]
            assert client("/similar/3").json["results"] == right
            assert client("/picture/4").status in (200, 410)
            names = [one["name"] for one in client("/pictures").json["pictures"]]
            assert client(f"/picture/{names.index('04.png')}").status == 410
            best = client("/search?k=1", "POST", (root / "pictures/05.png").read_bytes())
            assert best.json["results"][0]["name"] == "05.png"
        finally:
            process.terminate()
    return answers, first, most


@pytest.mark.slow
def test_hostile_requests(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra udmsh-pl[serve]")
    answers, first, most = attack(tmp_path, 1000, 0)
    assert not [key for key in answers if key[1] >= 500 and key[1] != 503]
    assert most - first < MOST_GROWTH
    statuses = {status for _, status in answers}
    assert {200, 401, 403, 404, 405, 413, 415, 421, 422} <= statuses


if __name__ == "__main__":
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seen, at_first, at_most = attack(Path(folder), int(sys.argv[1]), int((*sys.argv, "0")[2]))
    by_status: Counter[int] = Counter()
    for (_, status), number in seen.items():
        by_status[status] += number
    print(f"{sum(seen.values())} requests, {time.perf_counter() - start:.0f} s")
    print("by status:", dict(sorted(by_status.items())))
    print(
        "by kind:",
        {kind: sum(n for (k, _), n in seen.items() if k == kind) for kind, _ in sorted(seen)},
    )
    print(f"memory: {at_first / 1e6:.0f} MB at first, {at_most / 1e6:.0f} MB at most")
