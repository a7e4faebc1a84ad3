"""The body of a request, within limits on bytes and time; of a form, the file in it."""

import asyncio
from email.message import Message

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

MOST_PARTS = 32  # of a form; the file is looked for in no more


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """The whole body; raises HTTPException 413 for more than ``most`` bytes, 408 for one that takes
    longer than ``seconds``, 400 for a connection that ended early.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdecimal() and int(announced[:16]) > most:
        raise _too_large(most)
    try:
        return await asyncio.wait_for(_collect(request, most), seconds)
    except (TimeoutError, asyncio.TimeoutError):  # two classes in Python 3.10
        raise HTTPException(408, "the upload takes too long") from None


def file_of_form(body: bytes, content_type: str) -> bytes:
    """The first file of a form that was sent as ``multipart/form-data``, another body as it is;
    HTTPException 400 for none. A library's parser would write large files to the disk.
    """
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        return body
    boundary = str(header.get_param("boundary", "")).encode("latin-1", "replace")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST_PARTS) if boundary else []
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            return content
    raise HTTPException(400, "the form holds no file; send it as `curl -F file=@picture.jpg` does")


async def _collect(request: Request, most: int) -> bytes:
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise _too_large(most)
    except ClientDisconnect:
        raise HTTPException(400, "the upload was cut") from None
    return bytes(body)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"more than {most:,} bytes", {"connection": "close"})
