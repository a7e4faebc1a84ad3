"""What every request passes before the API sees it, and what every answer carries."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from udmsh_pl.serve.access import Access
from udmsh_pl.serve.limits import REFUSED, Buckets, cost_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
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
PUBLIC = ("/static/", "/favicon.ico")  # tells nothing of the collection


class Guard:
    """ASGI middleware: known host, no forged request, allowance, session; headers on all answers.

    Args:
        app: the API
        access: who may ask
        buckets: how often
    """

    def __init__(self, app: App, access: Access, buckets: Buckets) -> None:
        self.app, self.access, self.buckets = app, access, buckets

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a WebSocket; there is none here
            return await send({"type": "websocket.close", "code": 1008})
        problem = self._problem(scope)

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
        body = json.dumps({"detail": detail}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))} | extra
        lines = [(name.encode(), value.encode()) for name, value in headers.items()]
        await with_headers({"type": "http.response.start", "status": status, "headers": lines})
        await with_headers({"type": "http.response.body", "body": body})
        return None

    def _problem(self, scope: Message) -> tuple[int, str, dict[str, str]] | None:
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        headers = dict(pairs)
        path, client = scope["path"], (scope.get("client") or ("",))[0]
        if sum(name == "host" for name, _ in pairs) != 1 or not self.access.knows_host(
            headers["host"]
        ):
            return 421, "this is no name of this server; see --name of `udmsh serve`", {}
        if self.access.is_forged(scope["method"], path, headers):
            return 403, "another site asks", {}
        if not self.buckets.take(client, cost_of(path)):
            return 429, "too many requests; wait a second", {"retry-after": "1"}
        public = path in ("/", "/api", "/login") or path.startswith(PUBLIC)
        if public or self.access.is_known(headers):
            return None
        self.buckets.fine(client, REFUSED)
        return 401, "a token is needed", {"www-authenticate": "Bearer"}
