"""The JSON API, and the page's files."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
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
from udmsh_pl.serve.request_body import body_of, file_of_form
from udmsh_pl.serve.service import Computing, OtherVersion, Service, TooMany

UPLOADS = 8  # at a time; each is in memory as a whole
LOGIN_BYTES, UPLOAD_SECONDS = 4096, 30.0
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
FOR_EVER = "private, max-age=31536000, immutable"  # the address holds the version
ABOUT = (
    "Pictures are named by the row they have in one version of the index. With `version`, the "
    "answer is 409 when that is no longer the newest. `/duplicates` and `/map` answer 202 while "
    "they are computed; ask again. Nothing that is uploaded is kept, and nothing is ever deleted."
)

Id = Annotated[int, Path(ge=0, description="row of a picture")]
Count = Annotated[int, Query(ge=1, le=500, description="how many")]
Radius = Annotated[int | None, Query(ge=0, le=1024, description="Hamming distance at most, bits")]
Version = Annotated[int | None, Query(ge=0, description="of the index that ids are meant in")]
Offset = Annotated[int, Query(ge=0, le=1 << 40)]
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
BINARY = {"type": "string", "format": "binary"}
UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "the picture's file, as it is or in a form",
        "content": {
            "image/*": {"schema": BINARY},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": BINARY}}},
        },
    }
}
LOGIN = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.Login.model_json_schema()}},
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 409, 429, 503)
}


def create_api(service: Service, access: Access, upload_seconds: float = UPLOAD_SECONDS) -> FastAPI:
    """The application without its middleware.

    Args:
        service: answers
        access: for sessions; the middleware asks it too
        upload_seconds: that a body may take to come
    """
    api = FastAPI(
        title="udmsh serve", version=__version__, description=ABOUT, docs_url=None, redoc_url=None,
        responses=PROBLEMS, redirect_slashes=False,
    )  # fmt: skip
    _add_problems(api)
    _add_page(api, access, upload_seconds)
    _add_search(api, service, upload_seconds)
    _add_pictures(api, service)
    return api


def _add_search(api: FastAPI, service: Service, upload_seconds: float) -> None:
    uploads = asyncio.Semaphore(UPLOADS)

    @api.post("/search", openapi_extra=UPLOAD, tags=["search"], summary="Pictures like an upload")
    async def search(request: Request, k: Count = 100, radius: Radius = None) -> schemas.Results:
        if uploads.locked():
            raise Busy
        async with uploads:
            body = await body_of(request, service.upload_bytes, upload_seconds)
            start = time.perf_counter()
            content = file_of_form(body, request.headers.get("content-type", ""))
            if not content:
                raise HTTPException(400, "send the picture's file, as the body or in a form")
            return await run_in_threadpool(service.search, content, k, radius, start)

    @api.get("/similar/{id}", tags=["search"], summary="Pictures like one of the collection")
    def similar(
        id: Id, k: Count = 100, radius: Radius = None, version: Version = None
    ) -> schemas.Results:
        return service.similar(id, k, radius, version, time.perf_counter())

    @api.get("/duplicates", tags=["search"], summary="Groups of copies")
    def duplicates(
        radius: Radius = None, offset: Offset = 0, limit: Count = 50, version: Version = None
    ) -> schemas.Duplicates:
        return service.duplicates(radius, offset, limit, version)


def _add_pictures(api: FastAPI, service: Service) -> None:
    @api.get("/info", tags=["collection"], summary="The collection")
    def info() -> schemas.Info:
        return service.info()

    @api.get("/pictures", tags=["collection"], summary="Pictures, by a part of their name")
    def pictures(
        name: Annotated[str, Query(max_length=200)] = "", offset: Offset = 0, limit: Count = 100
    ) -> schemas.Listing:
        return service.listing(name, offset, limit)

    @api.get("/map", tags=["collection"], summary="The collection on a plane")
    def plane(version: Version = None) -> schemas.Plane:
        return service.plane(version)

    @api.get("/map/tiles", tags=["collection"], response_class=Response, responses=JPEG)
    def tiles(version: Version = None) -> Response:
        """Small pictures for the map, in one."""
        return _jpeg(service.tiles(version), version)

    @api.get("/thumbnail/{id}", tags=["collection"], response_class=Response, responses=JPEG)
    def thumbnail(id: Id, version: Version = None) -> Response:
        """A picture as JPEG, the longer side at most 192 pixels."""
        return _jpeg(service.thumbnail(id, version), version)

    @api.get("/picture/{id}", tags=["collection"], response_class=Response, responses=JPEG)
    def picture(id: Id, version: Version = None) -> Response:
        """A picture as JPEG without metadata, the longer side at most 2,048 pixels; 410 where its
        file is no longer the one that was indexed.
        """
        return _jpeg(service.picture(id, version), version)


def _jpeg(content: bytes, version: int | None) -> Response:
    cache = {} if version is None else {"cache-control": FOR_EVER}
    return Response(content, media_type="image/jpeg", headers=cache)


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


def _add_page(api: FastAPI, access: Access, upload_seconds: float) -> None:
    page = page_files()

    def answer(request: Request, name: str) -> Response:
        if name not in page:
            raise HTTPException(404, "no such file")
        file = page[name]
        if request.headers.get("if-none-match") == file.headers["etag"]:
            same = {header: file.headers[header] for header in ("etag", "cache-control")}
            return Response(status_code=304, headers=same)
        return Response(file.body, headers=dict(file.headers))

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def index(request: Request) -> Response:
        return answer(request, "index.html")

    @api.get("/api", include_in_schema=False)
    def documentation(request: Request) -> Response:
        return answer(request, "api.html")

    @api.get("/favicon.ico", include_in_schema=False)
    def icon(request: Request) -> Response:
        return answer(request, "icon.svg")

    @api.get("/static/{name}", include_in_schema=False)
    def static(request: Request, name: str) -> Response:
        return answer(request, name)

    # its body is read by us: FastAPI would take one of any length, and here from anybody
    @api.post("/login", tags=["session"], status_code=204, openapi_extra=LOGIN)
    async def login(request: Request) -> Response:
        """Open a session in a browser."""
        try:
            content = await body_of(request, LOGIN_BYTES, upload_seconds)
            given = schemas.Login.model_validate_json(content)
        except ValidationError as error:
            raise HTTPException(422, 'send {"token": "..."}') from error
        if access.token and not access.is_token(given.token):
            raise HTTPException(401, "this is not the token")
        done = Response(status_code=204)
        secure = request.url.scheme == "https"
        done.set_cookie(
            access.cookie,
            access.session,
            path=access.root_path or "/",
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return done


Handler = Callable[[Request, Any], Awaitable[Response]]


def _add_problems(api: FastAPI) -> None:
    """What each of our exceptions is answered with."""

    def handler(status: int, detail: str = "", **headers: str) -> Handler:
        async def handle(_: Request, error: Exception) -> Response:
            problem = detail or schemas.readable(str(error))
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return JSONResponse({"detail": problem}, status, names)

        return handle

    async def undecodable(_: Request, error: Undecodable) -> Response:
        return JSONResponse({"detail": str(error)}, 413 if error.large else 415)

    pairs: dict[Any, Handler] = {
        IndexError: handler(404, "no such picture"),
        OtherVersion: handler(409, "the index has a newer version; ask /info"),
        TooMany: handler(422),
        Gone: handler(410),
        Computing: handler(202, "being computed; ask again", retry_after="1"),
        Busy: handler(503, "busy; come again", retry_after="1"),
        Full: handler(503, "busy; come again", retry_after="2"),
        Undecodable: undecodable,
        InputError: handler(503),  # the index was damaged meanwhile
    }
    for kind, answer in pairs.items():
        api.add_exception_handler(kind, answer)
