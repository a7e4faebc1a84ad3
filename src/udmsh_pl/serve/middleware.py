"""Checks of every request before the API sees it, and the headers of every answer."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.datastructures import Headers
from fastapi.responses import JSONResponse

from udmsh_pl.serve.access import Access

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
PUBLIC = ("/static/", "/favicon.ico")  # nothing of the collection
A_SECOND, AT_ONCE = 200.0, 1000.0  # cost that a client may cause
MOST_CLIENTS = 4096  # remembered
COSTS = {"/search": 10.0, "/picture": 5.0, "/duplicates": 5.0, "/map": 5.0, "/login": 20.0}
REFUSED = 20.0  # what a wrong token costs beside: ten guesses a second


class RateLimiter:
    """A bucket of allowance a client, ``at_once``, refilled by ``a_second``."""

    def __init__(
        self, a_second: float = A_SECOND, at_once: float = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
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

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._left)

    def fine(self, client: str, cost: float) -> None:
        """Take that much, down to nothing."""
        if not self.take(client, cost):
            self._left[client] = 0.0, self._clock()


class AccessMiddleware:
    """ASGI middleware: known host, no forged request, allowance, session; headers on answers."""

    def __init__(self, app: App, access: Access, limiter: RateLimiter) -> None:
        self.app, self.access, self.limiter = app, access, limiter

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a WebSocket; there is none here
            return await send({"type": "websocket.close", "code": 1008})
        root, path = self.access.root_path, scope["path"]
        if root and (path == root or path.startswith(root + "/")):
            path = path.removeprefix(root)  # a proxy has left it in
        problem = self._problem(scope, path)
        scope = {**scope, "root_path": root, "path": root + path}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name.lower() for name, _ in given}
                ours = HEADERS | {"cache-control": "no-store"}
                pairs = ((name.encode(), value.encode()) for name, value in ours.items())
                message["headers"] = given + [pair for pair in pairs if pair[0] not in names]
            await send(message)

        if problem is None:
            return await self.app(scope, receive, with_headers)
        status, detail, extra = problem
        return await JSONResponse({"detail": detail}, status, extra)(scope, receive, with_headers)

    def _problem(self, scope: Message, path: str) -> tuple[int, str, dict[str, str]] | None:
        headers, client = Headers(scope=scope), (scope.get("client") or ("",))[0]
        host, origin = (headers.get(name, "")[:200] for name in ("host", "origin"))
        if len(headers.getlist("host")) != 1 or not self.access.knows_host(host):
            problem = (
                f"{host!r}, the Host of this request, is no name of this server; to allow it, "
                "start `udmsh serve` with --name and that name"
            )
            return 421, problem, {}
        if self.access.is_forged(scope["method"], path, headers):
            problem = "another site asks"
            if origin:
                problem += (
                    f": {origin!r} is not of the Host {host!r}; if it is a proxy of this server, "
                    f"start `udmsh serve` with --name {origin.partition('://')[2] or 'NAME'}"
                )
            return 403, problem, {}
        cost = COSTS.get("/" + path.split("/")[1] if "/" in path else "", 1.0)
        if not self.limiter.take(client, cost):
            return 429, "too many requests; wait a second", {"retry-after": "1"}
        if not path:  # addresses of the page are relative to a folder
            return 308, "", {"location": self.access.root_path + "/"}
        public = path in ("/", "/api", "/login") or path.startswith(PUBLIC)
        if public or self.access.is_known(headers):
            return None
        self.limiter.fine(client, REFUSED)
        return 401, "a token is needed", {"www-authenticate": "Bearer"}
