"""The process that opens strangers' pictures: it knows no network, and has little memory."""

import io
import json
import os
import signal
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture, formats
from udmsh_pl.images.decode import decode as decode_rgb
from udmsh_pl.safe.untrusted import over, reason_of
from udmsh_pl.search.pictures import decode

QUALITY = 90


def work(pipe: Connection, memory: int) -> None:
    """Answer tasks until the pipe is closed.

    A task is a line of JSON (``kind`` and ``side``) and the picture's bytes. An answer is a line of
    JSON and bytes: for ``query`` pixels uint8 [3, side, side] and a thumbnail; for ``show`` a JPEG
    without metadata, the longer side at most ``side``.

    Args:
        pipe: to the server
        memory: bytes beyond those that the imports took
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this one
    warnings.simplefilter("ignore")  # Pillow's, of tags that are broken
    formats()  # Pillow's plugins are loaded before the limit
    _limit(memory)
    with suppress(OSError):  # the server may have ended meanwhile; then there is no task either
        pipe.send_bytes(b"ready")
    while True:
        try:
            head, _, content = pipe.recv_bytes().partition(b"\n")
        except (EOFError, OSError):
            return
        task = json.loads(head)
        try:
            answer = _show if task["kind"] == "show" else _query
            facts, data = answer(content, task["side"])
        except (InputError, MemoryError) as error:
            facts, data = _problem(error), b""
        pipe.send_bytes(json.dumps(facts).encode() + b"\n" + data)


def _query(content: bytes, side: int) -> tuple[dict[str, Any], bytes]:
    picture = decode(content, "this file", side)
    facts = {"width": picture.width, "height": picture.height}
    return facts, picture.pixels.tobytes() + picture.thumbnail


def _show(content: bytes, side: int) -> tuple[dict[str, Any], bytes]:
    image = decode_rgb(io.BytesIO(content))
    facts = {"width": image.width, "height": image.height}
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return facts, stream.getvalue()


def _problem(error: BaseException) -> dict[str, Any]:
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, MemoryError):
        behind = behind.__cause__
    if behind is not None:
        return {"problem": "it needs too much memory", "large": True}
    if isinstance(error, UnreadablePicture):
        error = InputError(error.reason)
    return {"problem": reason_of(error), "large": str(over("PIXELS")) in str(error)}


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; time and pixels are limited there too
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_AS] = used + memory
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
