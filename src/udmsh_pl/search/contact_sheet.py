"""A page of thumbnails in one file that needs nothing else: no script, no network, all text
escaped.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = """body{font:15px system-ui,sans-serif;margin:2em;background:#fff;color:#222}
section{display:flex;flex-wrap:wrap;gap:1em;padding:1em 0;border-top:1px solid #8884}
figure{margin:0;width:192px}img{max-width:192px;display:block}
figcaption{font-size:12px;overflow-wrap:anywhere}a{color:inherit}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"""


@dataclass(frozen=True)
class Tile:
    """A picture of the page.

    Args:
        path: its file, which the thumbnail links to
        thumbnail: JPEG
        note: a few words under it
    """

    path: Path
    thumbnail: bytes
    note: str


def contact_sheet(title: str, groups: Sequence[tuple[str, Sequence[Tile]]]) -> str:
    """HTML with a section a group, each with a heading where it has one."""
    body = [f"<h1>{_text(title)}</h1>"]
    for heading, tiles in groups:
        body.append(f"<h2>{_text(heading)}</h2>" if heading else "")
        body.append(f"<section>{''.join(map(_figure, tiles))}</section>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def _figure(tile: Tile) -> str:
    picture = base64.b64encode(tile.thumbnail).decode()
    return (
        f'<figure><a href="{html.escape(tile.path.absolute().as_uri())}">'
        f'<img alt="" src="data:image/jpeg;base64,{picture}"></a>'
        f"<figcaption>{_text(str(tile.path))}<br>{_text(tile.note)}</figcaption></figure>"
    )


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())
