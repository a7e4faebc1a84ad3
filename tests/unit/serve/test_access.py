"""Who is let in: each rule against the request that it is there for."""

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.serving import Client

from udmsh_pl.errors import InputError
from udmsh_pl.serve import access as access_module
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.middleware import HEADERS, MOST_CLIENTS, RateLimiter

from .conftest import TOKEN, Serve


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("LOCALHOST", 200),
        ("[::1]:8765", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1:80@evil.example", 421),
        ("localhost:x", 421),
        ("192.168.0.7", 421),  # a loopback server is not reached under it
        ("", 421),
        (None, 400),  # HTTP/1.1 wants one; uvicorn says so
    ],
)
def test_only_names_of_this_machine(client: Client, host: str | None, status: int) -> None:
    for path in ("/info", "/", "/static/app.js"):
        assert client(path, host=host).status == status


def test_a_refusal_names_its_cause_and_the_option_that_mends_it(client: Client) -> None:
    unknown = client("/info", host="photos.example:8443").json["detail"]
    assert "'photos.example:8443', the Host of this request" in unknown
    assert "--name" in unknown
    foreign = client("/search", "POST", b"x", origin="https://photos.example").json["detail"]
    assert f"not of the Host '127.0.0.1:{client.port}'" in foreign
    assert "--name photos.example" in foreign


def test_a_proxy_that_sends_its_own_host_is_allowed_by_name(serve: Serve, index: Path) -> None:
    ask = serve(index, names=["photos.example", "other.example:8443"])
    for origin, status in (
        ("https://photos.example", 400),  # an empty upload
        ("http://photos.example", 400),
        ("https://other.example:8443", 400),
        ("https://photos.example:8443", 403),  # another program may be there
        ("https://other.example", 403),
        ("https://evil.photos.example", 403),
    ):
        assert ask("/search", "POST", b"", origin=origin).status == status
    for host in ("photos.example", "other.example:8443", "other.example"):
        assert ask("/info", host=host).status == 200


@pytest.mark.parametrize(
    "path", ["photos", "/photos/", "//evil.example", "/a b", "/a?b", "/", "/é"]
)
def test_a_root_path_is_a_path(path: str) -> None:
    with pytest.raises(InputError, match="--root-path"):
        Access("127.0.0.1", 80, root_path=path)


def test_below_a_root_path_whether_the_proxy_takes_it_off_or_not(serve: Serve, index: Path) -> None:
    ask = serve(index, token=TOKEN, root_path="/photos/mine")
    for path in ("/", "/info", "/static/app.js", "/thumbnail/0", "/api", "/map/tiles"):
        for root in ("", "/photos/mine"):
            assert ask(root + path).status in (200, 202), root + path
        assert ask("/photos" + path).status == 404
    moved = ask("/photos/mine")
    assert (moved.status, moved.headers["location"]) == (308, "/photos/mine/")
    assert ask("/photos/mine/info", authorization=None).status == 401
    assert ask("/photos/mine/", authorization=None, sec_fetch_site="cross-site",
               sec_fetch_mode="navigate").status == 200  # fmt: skip
    assert ask("/openapi.json").json["servers"] == [{"url": "/photos/mine"}]
    body = b'{"token": "%s"}' % TOKEN.encode()
    opened = ask("/photos/mine/login", "POST", body, authorization=None)
    assert "path=/photos/mine;" in opened.headers["set-cookie"].lower()


def test_names_of_a_server_for_others() -> None:
    rules = Access("0.0.0.0", 80, TOKEN, ["pictures.example"])
    own = socket.gethostname()
    for name in ("192.168.0.7:80", "[fe80::1]", own, f"{own}.local", "Pictures.Example:443"):
        assert rules.knows_host(name)
    assert not rules.knows_host("evil.example")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://{host}", 200),
        ("https://{host}", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),  # another program's page on this machine
        ("http://{host}.evil.example", 403),
        ("", 403),
    ],
)
def test_another_page_cannot_send(
    client: Client, index: Path, origin: str | None, status: int
) -> None:
    picture = (index.parent / "pictures/01.png").read_bytes()
    given = origin.format(host=f"127.0.0.1:{client.port}") if origin else origin
    answer = client("/search", "POST", picture, origin=given)
    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_cannot_load_but_may_link(client: Client, site: str) -> None:
    for path in ("/thumbnail/0", "/info", "/static/app.js", "/duplicates"):
        assert client(path, sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403
        assert client(path, sec_fetch_site=site, sec_fetch_mode="navigate").status == 403
    assert client("/", sec_fetch_site=site, sec_fetch_mode="navigate").status == 200
    assert client("/", sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403
    assert client("/info", sec_fetch_site="same-origin").status == 200


def test_the_token_opens_and_nothing_else_does(serve: Serve, index: Path) -> None:
    ask = serve(index, server={"limiter": RateLimiter(1e9, 1e9)}, token=TOKEN)
    closed = ["/info", "/thumbnail/0", "/picture/0", "/similar/0", "/map", "/openapi.json", "/no"]
    for path in closed[:-1]:
        assert ask(path).status in (200, 202)
    wrong: list[str | None] = [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        "Bearer",
        "Bearer \xff",
    ]
    for value in wrong:
        for path in closed:
            answer = ask(path, authorization=value)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert ask("/search", "POST", b"x", authorization=value).status == 401
    assert ask("/", authorization=None).status == 200  # the form for the token


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_gets(
    serve: Serve, index: Path
) -> None:
    ask = serve(index, token=TOKEN)

    def login(body: bytes) -> Any:
        return ask("/login", "POST", body, authorization=None, content_type="application/json")

    assert login(b'{"token": "%s"}' % TOKEN.replace("a", "b").encode()).status == 401
    assert login(b'{"token": 5}').status == 422
    opened = login(b'{"token": "%s"}' % TOKEN.encode())
    assert opened.status == 204
    cookie = opened.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    pair = cookie.split(";")[0]
    assert ask("/info", authorization=None, cookie=f"other=1; {pair}").status == 200
    assert ask("/info", authorization=None, cookie=pair[:-1]).status == 401
    assert ask("/info", authorization=None, cookie="a b=;;\x7f" + "x" * 9000).status == 401
    # of another run of the server, a cookie is worth nothing
    assert serve(index, token=TOKEN)("/info", authorization=None, cookie=pair).status == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = access_module.hmac.compare_digest
    monkeypatch.setattr(
        access_module.hmac, "compare_digest", lambda a, b: compared.append(a) or original(a, b)
    )
    rules = Access("127.0.0.1", 80, TOKEN)
    assert not rules.is_known({"authorization": "Bearer guess"})
    assert rules.is_known({"cookie": f"udmsh-80={rules.session}"})
    assert compared == [b"guess", b"", rules.session.encode()]


@pytest.mark.parametrize(
    ("host", "token", "match"),
    [
        ("0.0.0.0", "", "--token"),
        ("::", "", "--token"),
        ("192.168.0.7", "", "--token"),
        ("pictures.example", "", "--token"),
        ("127.0.0.1", "short", "16 ASCII"),
        ("0.0.0.0", "ä" * 20, "16 ASCII"),
    ],
)
def test_other_machines_need_a_token(host: str, token: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Access(host, 80, token)
    for own in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        Access(own, 80)


def test_every_answer_has_the_headers(client: Client) -> None:
    answers = [
        client("/"),
        client("/", "HEAD"),
        client("/info"),
        client("/nothing"),
        client("/similar/x"),
        client("/info", host="evil.example"),
        client("/search", "POST", b"no picture"),
        client("/", if_none_match=client("/").headers["etag"]),
    ]
    assert [one.status for one in answers] == [200, 200, 200, 404, 422, 421, 415, 304]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    policy = answers[0].headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert client("/info").headers["cache-control"] == "no-store"


def test_a_client_has_an_allowance(serve: Serve, index: Path) -> None:
    now = [0.0]
    ask = serve(index, server={"limiter": RateLimiter(10, 30, lambda: now[0])}, token=TOKEN)
    assert [ask("/info").status for _ in range(31)] == [200] * 30 + [429]
    assert ask("/info").headers["retry-after"] == "1"
    now[0] += 1
    assert ask("/search", "POST", b"x").status == 415  # it costs ten
    assert ask("/info").status == 429
    now[0] += 100
    assert ask("/info", authorization="Bearer guess").status == 401  # so does a guess, twenty
    assert [ask("/info").status for _ in range(10)] == [200] * 9 + [429]


def test_clients_do_not_share_and_are_forgotten() -> None:
    limiter = RateLimiter(1, 2, lambda: 0.0)
    assert [limiter.take("one", 1) for _ in range(3)] == [True, True, False]
    assert limiter.take("two", 1)
    for number in range(MOST_CLIENTS + 10):
        limiter.take(str(number), 1)
    assert len(limiter) == MOST_CLIENTS


def test_uploads_end_where_the_limit_is(client: Client, serve: Serve, index: Path) -> None:
    most = 32 << 20
    assert client("/search", "POST", b"", content_length=str(most + 1)).status == 413
    assert client("/search", "POST", b"", content_length="9" * 40).status in (400, 413)
    assert client("/search", "POST", b"").status == 400
    assert client("/login", "POST", b"", content_length="5000").status == 413
    assert client("/login", "POST", b"[" * 4000).status == 422
    chunk = b"100000\r\n" + b"\xff" * (1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
        head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
        raw.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                raw.sendall(chunk)
        except OSError:
            pass  # it has answered, and closed
        else:
            assert raw.recv(20).startswith(b"HTTP/1.1 413")
    for path in ("/login", "/info", "/thumbnail/0"):  # no other body is waited for
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
            raw.sendall(
                head.replace("/search", path).encode() + b"Transfer-Encoding: chunked\r\n\r\n"
            )
            raw.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            assert raw.recv(12).split()[1] in (b"413", b"405")
    hasty = serve(index, server={"upload_seconds": 0.1})
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as raw:
        raw.sendall(head.encode() + b"Content-Length: 100\r\n\r\nslow")
        assert raw.recv(20).startswith(b"HTTP/1.1 408")
    assert client("/info").status == 200


def test_no_websocket_and_no_nonsense(client: Client) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_key": "x" * 24}
    assert client("/info", sec_websocket_version="13", **upgrade).status in (200, 400, 403)
    for line in (b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 90_000):
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
            raw.sendall(line)
            assert b" 500 " not in raw.recv(100)
    assert client("/info").status == 200
