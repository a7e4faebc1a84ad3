"""The body of a request, within limits on bytes and time."""

import asyncio
from typing import Any

from fastapi import HTTPException, Request


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        HTTPException: 413 for more than ``most`` bytes, 408 for one that takes longer than
            ``seconds``, 400 for a connection that ended early.
    """
    told = request.headers.get("content-length", "0")
    if told.isascii() and told.isdecimal() and (len(told) > 15 or int(told) > most):
        raise _too_large(most)
    try:
        return await asyncio.wait_for(_collect(request, most), seconds)
    except (TimeoutError, asyncio.TimeoutError):  # two classes in Python 3.10
        raise HTTPException(408, "the upload takes too long") from None


async def _collect(request: Request, most: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the upload was cut")
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(most: int) -> HTTPException:
    headers: dict[str, Any] = {"connection": "close"}
    return HTTPException(413, f"more than {most:,} bytes", headers)
