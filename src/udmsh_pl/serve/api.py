"""The JSON API, and the page's files."""

import asyncio
import time
from collections.abc import Callable
from email.message import Message
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from udmsh_pl import __version__
from udmsh_pl.errors import InputError
from udmsh_pl.serve import schemas
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.collection import Gone
from udmsh_pl.serve.decoder import Busy, Undecodable
from udmsh_pl.serve.jobs import Full
from udmsh_pl.serve.service import UPLOAD_BYTES, Service

UPLOADS = 8  # at a time; each is in memory as a whole
MOST_PARTS = 32  # of a form; the file is looked for in no more
LOGIN_BYTES, UPLOAD_SECONDS = 4096, 30.0
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
ABOUT = (
    "Pictures are named by the row they have in one version of the index. With `version`, the "
    "answer is 409 when that is no longer the newest. `/duplicates` and `/map` answer 202 while "
    "they are computed; ask again. Nothing that is uploaded is kept, and nothing is ever deleted."
)
JPEG: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {"image/jpeg": {}}}},
}
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"file": BINARY}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 409, 429, 503)
}


def create_api(service: Service, access: Access, upload_seconds: float = UPLOAD_SECONDS) -> FastAPI:
    """The application without its middleware; ``access`` is for sessions."""
    api = FastAPI(
        title="udmsh serve", version=__version__, description=ABOUT, docs_url=None, redoc_url=None,
        responses=PROBLEMS, redirect_slashes=False,
    )  # fmt: skip
    for kind in (Busy, Full, InputError):
        api.add_exception_handler(kind, _problem)
    _add_page(api)
    _add_login(api, access, upload_seconds)
    _add_search(api, service, upload_seconds)
    routes: list[tuple[str, str, Callable[..., Any]]] = [
        ("search", "/similar/{id}", service.similar),
        ("search", "/duplicates", service.duplicates),
        ("collection", "/info", service.info),
        ("collection", "/pictures", service.pictures),
        ("collection", "/map", service.plane),
        ("collection", "/map/tiles", service.tiles),
        ("collection", "/thumbnail/{id}", service.thumbnail),
        ("collection", "/picture/{id}", service.picture),
    ]
    for tag, path, answer in routes:
        options = JPEG if answer.__annotations__["return"] is Response else {}
        api.get(path, tags=[tag], **options)(answer)
    return api


def _body(kinds: dict[str, Any], about: str) -> dict[str, Any]:
    """What OpenAPI says of a body that we read ourselves."""
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"required": True, "description": about, "content": content}}


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """The whole body; raises HTTPException 413 for more than ``most`` bytes, 408 for one that takes
    longer than ``seconds``, 400 for a connection that ended early.
    """
    too_large = HTTPException(413, f"more than {most:,} bytes", {"connection": "close"})
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdecimal() and int(announced[:16]) > most:
        raise too_large

    async def collect() -> bytes:
        body, more = bytearray(), True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the upload was cut")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(collect(), seconds)
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


def _add_search(api: FastAPI, service: Service, upload_seconds: float) -> None:
    uploads = asyncio.Semaphore(UPLOADS)
    about = "the picture's file, as it is or in a form"
    upload = _body({"image/*": BINARY, "multipart/form-data": FORM}, about)

    @api.post("/search", openapi_extra=upload, tags=["search"])
    async def search(
        request: Request, k: schemas.Count = 100, radius: schemas.Radius = None
    ) -> schemas.Results:
        """Pictures like an upload."""
        if uploads.locked():
            raise Busy
        async with uploads:
            body = await body_of(request, UPLOAD_BYTES, upload_seconds)
            start = time.perf_counter()
            content = file_of_form(body, request.headers.get("content-type", ""))
            if not content:
                raise HTTPException(400, "send the picture's file, as the body or in a form")
            return await run_in_threadpool(service.search, content, k, radius, start)


def page_files() -> dict[str, Response]:
    """Name -> answer, of all files in ``static``: a request names one of them, never a path.

    Not Starlette's StaticFiles: its ETag is of the time and the size of a file, which are equal for
    other contents where an installer sets all times alike, and its media types are the system's,
    of which a wrong one for ``.js`` (as Windows may have) keeps the page from starting.
    """
    found = {}
    for entry in files("udmsh_pl.serve").joinpath("static").iterdir():
        if (kind := KINDS.get(entry.name.rpartition(".")[2])) is not None:
            content = entry.read_bytes()
            tag = f'"{sha256(content).hexdigest()[:20]}"'
            headers = {"etag": tag, "cache-control": "no-cache"}
            found[entry.name] = Response(content, media_type=kind, headers=headers)
    return found


def _add_page(api: FastAPI) -> None:
    page = page_files()

    def static(request: Request, name: str) -> Response:
        if name not in page:
            raise HTTPException(404, "no such file")
        file = page[name]
        if request.headers.get("if-none-match") == file.headers["etag"]:
            same = {header: file.headers[header] for header in ("etag", "cache-control")}
            return Response(status_code=304, headers=same)
        return Response(file.body, headers=dict(file.headers))

    def showing(name: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            return static(request, name)

        return answer

    api.get("/static/{name}", include_in_schema=False)(static)
    for path, name in {"/": "index.html", "/api": "api.html", "/favicon.ico": "icon.svg"}.items():
        api.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(showing(name))


def _add_login(api: FastAPI, access: Access, upload_seconds: float) -> None:
    # its body is read by us: FastAPI would take one of any length, and here from anybody
    body = _body({"application/json": schemas.Login.model_json_schema()}, "")

    @api.post("/login", tags=["session"], status_code=204, openapi_extra=body)
    async def login(request: Request) -> Response:
        """Open a session in a browser."""
        try:
            content = await body_of(request, LOGIN_BYTES, upload_seconds)
            given = schemas.Login.model_validate_json(content)
        except ValidationError as error:
            raise HTTPException(422, 'send {"token": "..."}') from error
        if access.token and not access.is_token(given.token):
            raise HTTPException(401, "this is not the token")
        done, secure = Response(status_code=204), request.url.scheme == "https"
        done.set_cookie(
            access.cookie, access.session, path=access.root_path or "/", secure=secure,
            httponly=True, samesite="strict",
        )  # fmt: skip
        return done


async def _problem(_: Request, error: Exception) -> Response:
    """What one of our exceptions is answered with."""
    if isinstance(error, Busy | Full):
        again = {"retry-after": "1" if isinstance(error, Busy) else "2"}
        return JSONResponse({"detail": "busy; come again"}, 503, again)
    status = 410 if isinstance(error, Gone) else 503  # the index was damaged meanwhile
    if isinstance(error, Undecodable):
        status = 413 if error.large else 415
    return JSONResponse({"detail": schemas.readable(str(error))}, status)
