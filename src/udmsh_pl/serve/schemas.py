"""The API's parameters and answers; the descriptions are those of its OpenAPI document."""

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, Field

Id = Annotated[int, Path(ge=0, description="row of a picture")]
Count = Annotated[int, Query(ge=1, le=500, description="how many")]
Radius = Annotated[int | None, Query(ge=0, le=1024, description="Hamming distance at most, bits")]
Version = Annotated[int | None, Query(ge=0, description="of the index that ids are meant in")]
Offset = Annotated[int, Query(ge=0, le=1 << 40)]
Name = Annotated[str, Query(max_length=200)]


class Picture(BaseModel):
    """A picture of the collection."""

    id: int = Field(description="its row in this version of the index")
    name: str = Field(description="its path, relative to the collection's folder")
    width: int = Field(description="in pixels, as it is shown")
    height: int = Field(description="in pixels, as it is shown")
    size: int = Field(description="of the file, in bytes")
    modified: float = Field(description="when the file was last changed, seconds since 1970")


class Found(Picture):
    """A picture that is like another."""

    distance: int = Field(description="Hamming distance of the codes, in bits")
    similarity: float = Field(description="0.8 cosine of features + 0.2 cosine of codes")
    certainty: Literal["same", "strong", "likely", "weak"] = Field(
        description="same: its pixels agree with the query's; strong: more alike than 999 of "
        "1,000 others are to a typical picture; likely: than 99 of 100; weak: less"
    )


class Results(BaseModel):
    """What a search found, most alike first."""

    version: int = Field(description="of the index; an id means nothing in another")
    milliseconds: float = Field(description="that the server took")
    results: list[Found]


class Listing(BaseModel):
    """Pictures in the order of the index."""

    version: int
    total: int = Field(description="pictures that fit")
    pictures: list[Picture]


class CopyOf(Picture):
    """A picture of a group of copies."""

    relation: str = Field(
        description="to the group's first, which is kept: exact, recompressed, resized, cropped, "
        "mirrored, rotated; link: the same file, frees no space; similar: no copy"
    )
    agreement: float = Field(description="of the details of both, 0 to 1")


class Duplicates(BaseModel):
    """Groups of copies, most copies first. Nothing is ever deleted."""

    version: int
    total: int = Field(description="groups")
    copies: int = Field(description="pictures beside the first of each group")
    bytes: int = Field(description="that those take on the disk")
    groups: list[list[CopyOf]]


class Plane(BaseModel):
    """The collection on a plane, like beside like."""

    version: int
    places: list[list[int]] = Field(description="x and y of each picture, 0 to 10000")
    tile: int = Field(description="side of a tile of /map/tiles, in pixels")
    columns: int = Field(description="tiles in a row")
    tiles: list[int] = Field(description="id of the picture on each tile")


class Info(BaseModel):
    """The collection, and what the server takes."""

    version: int
    title: str = Field(description="name of the collection's folder")
    root: str = Field(description="the collection's folder")
    pictures: int
    bits: int = Field(description="of a code")
    about: str = Field(description="how the hash came about")
    strong: float = Field(description="similarity of one in 1,000 others to a typical picture")
    likely: float = Field(description="similarity of one in 100")
    upload_bytes: int = Field(description="that a picture may have")
    upload_pixels: int = Field(description="that a picture may have")
    problem: str = Field(description="why an older version is served; empty if it is not")


class Login(BaseModel):
    """What opens a session."""

    token: str = Field(max_length=1024)


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


def readable(name: str) -> str:
    """A name that JSON can hold: those on a disk may be no UTF-8."""
    return name.encode("utf-8", "replace").decode()
