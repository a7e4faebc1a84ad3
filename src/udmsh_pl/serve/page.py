"""The page's own files, read once: a request names one of them, never a path."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Args:
        content: its bytes
        kind: media type
        tag: for ``If-None-Match``
    """

    content: bytes
    kind: str
    tag: str


def page_files() -> dict[str, PageFile]:
    """Name -> file, of all that lie in ``static``."""
    found = {}
    for entry in files("udmsh_pl.serve").joinpath("static").iterdir():
        ending = entry.name.rpartition(".")[2]
        if ending in KINDS:
            content = entry.read_bytes()
            tag = f'"{sha256(content).hexdigest()[:20]}"'
            found[entry.name] = PageFile(content, KINDS[ending], tag)
    return found
