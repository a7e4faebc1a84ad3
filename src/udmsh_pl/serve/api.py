"""The JSON API, and the page's files."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from udmsh_pl import __version__
from udmsh_pl.errors import InputError
from udmsh_pl.serve import answers
from udmsh_pl.serve.access import Access
from udmsh_pl.serve.background import Full
from udmsh_pl.serve.collection import Gone
from udmsh_pl.serve.decoder import Busy, Undecodable
from udmsh_pl.serve.limits import Gate
from udmsh_pl.serve.page import page_files
from udmsh_pl.serve.service import Computing, OtherVersion, Service, TooMany
from udmsh_pl.serve.uploads import body_of

UPLOADS = 8  # at a time; each is in memory as a whole
LOGIN_BYTES, UPLOAD_SECONDS = 4096, 30.0
FOR_EVER = "private, max-age=31536000, immutable"  # the address holds the version
ABOUT = (
    "Pictures are named by the row they have in one version of the index. Give `version` to be told"
    " (409) when that is no longer the newest. `/duplicates` and `/map` answer 202 while they are "
    "computed; ask again. Nothing that is uploaded is kept, and nothing is ever deleted."
)

Id = Annotated[int, Path(ge=0, description="row of a picture")]
Count = Annotated[int, Query(ge=1, le=500, description="how many")]
Radius = Annotated[int | None, Query(ge=0, le=1024, description="Hamming distance at most, bits")]
Version = Annotated[int | None, Query(ge=0, description="of the index that ids are meant in")]
Offset = Annotated[int, Query(ge=0, le=1 << 40)]
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "the picture's file, as it is",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
LOGIN = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": answers.Login.model_json_schema()}},
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Problem} for status in (401, 403, 404, 409, 429, 503)
}


def create_api(service: Service, access: Access) -> FastAPI:
    """The application without its guard.

    Args:
        service: answers
        access: for sessions; the guard asks it too
    """
    api = FastAPI(
        title="udmsh serve", version=__version__, description=ABOUT, docs_url=None, redoc_url=None,
        responses=PROBLEMS, redirect_slashes=False,
    )  # fmt: skip
    _add_problems(api)
    _add_page(api, access)
    _add_search(api, service)
    _add_pictures(api, service)
    return api


def _add_search(api: FastAPI, service: Service) -> None:
    gate = Gate(UPLOADS)

    @api.post("/search", openapi_extra=UPLOAD, tags=["search"], summary="Pictures like an upload")
    async def search(request: Request, k: Count = 100, radius: Radius = None) -> answers.Results:
        with gate.enter(Busy()):
            content = await body_of(request, service.upload_bytes, UPLOAD_SECONDS)
            start = time.perf_counter()
            if not content:
                raise HTTPException(400, "send the picture's file as the body")
            return await run_in_threadpool(service.search, content, k, radius, start)

    @api.get("/similar/{id}", tags=["search"], summary="Pictures like one of the collection")
    def similar(
        id: Id, k: Count = 100, radius: Radius = None, version: Version = None
    ) -> answers.Results:
        return service.similar(id, k, radius, version, time.perf_counter())

    @api.get("/duplicates", tags=["search"], summary="Groups of copies")
    def duplicates(
        radius: Radius = None, offset: Offset = 0, limit: Count = 50, version: Version = None
    ) -> answers.Duplicates:
        return service.duplicates(radius, offset, limit, version)


def _add_pictures(api: FastAPI, service: Service) -> None:
    @api.get("/info", tags=["collection"], summary="The collection")
    def info() -> answers.Info:
        return service.info()

    @api.get("/pictures", tags=["collection"], summary="Pictures, by a part of their name")
    def pictures(
        name: Annotated[str, Query(max_length=200)] = "", offset: Offset = 0, limit: Count = 100
    ) -> answers.Listing:
        return service.listing(name, offset, limit)

    @api.get("/map", tags=["collection"], summary="The collection on a plane")
    def plane(version: Version = None) -> answers.Plane:
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


def _add_page(api: FastAPI, access: Access) -> None:
    page = page_files()

    def answer(request: Request, name: str) -> Response:
        if name not in page:
            raise HTTPException(404, "no such file")
        file = page[name]
        headers = {"etag": file.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.kind, headers=headers)

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
            content = await body_of(request, LOGIN_BYTES, UPLOAD_SECONDS)
            given = answers.Login.model_validate_json(content)
        except ValidationError as error:
            raise HTTPException(422, 'send {"token": "..."}') from error
        if access.token and not access.is_token(given.token):
            raise HTTPException(401, "this is not the token")
        done = Response(status_code=204)
        secure = request.url.scheme == "https"
        done.set_cookie(
            access.cookie, access.session, httponly=True, samesite="strict", secure=secure
        )
        return done


Handler = Callable[[Request, Any], Awaitable[Response]]


def _add_problems(api: FastAPI) -> None:
    """What each of our exceptions is answered with."""

    def handler(status: int, detail: str = "", **headers: str) -> Handler:
        async def handle(_: Request, error: Exception) -> Response:
            told = detail or answers.readable(str(error))
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return JSONResponse({"detail": told}, status, names)

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
        InputError: handler(503),  # the index was damaged meanwhile,
    }
    for kind, answer in pairs.items():
        api.add_exception_handler(kind, answer)
