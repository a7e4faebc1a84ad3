"""A page of thumbnails in one file that needs nothing else: no script, no network; text escaped."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>{{ title }}</title><style>
body{font:15px system-ui,sans-serif;margin:2em;background:#fff;color:#222}
section{display:flex;flex-wrap:wrap;gap:1em;padding:1em 0;border-top:1px solid #8884}
figure{margin:0;width:192px}img{max-width:192px;display:block}
figcaption{font-size:12px;overflow-wrap:anywhere}a{color:inherit}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}</style><h1>{{ title }}</h1>
{%- for heading, tiles in groups %}
{% if heading %}<h2>{{ heading }}</h2>{% endif %}<section>
{%- for tile in tiles %}
<figure><a href="{{ tile.path.absolute().as_uri() }}"><img alt="" src="data:image/jpeg;base64,
{{- base64(tile.thumbnail).decode() }}"></a><figcaption>{{ tile.path }}<br>{{ tile.note }}\
</figcaption></figure>
{%- endfor %}</section>
{%- endfor %}</html>
"""


class Tile(NamedTuple):
    """A picture of the page: its file, which the JPEG thumbnail links to, and a few words."""

    path: Path
    thumbnail: bytes
    note: str


def contact_sheet(title: str, groups: Sequence[tuple[str, Sequence[Tile]]]) -> str:
    """HTML with a section a group, each with a heading where it has one."""
    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(title=title, groups=groups, base64=base64.b64encode)
    return html.encode("utf-8", "replace").decode()  # names on a disk need not be UTF-8
