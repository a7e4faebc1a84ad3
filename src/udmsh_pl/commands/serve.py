"""``udmsh serve``: search an index in the browser, look at its copies and its map; a JSON API too.

Only --host lets other machines in. Nothing that is uploaded is kept, and no picture is changed or
deleted. Stop it with Ctrl-C.
"""

import argparse
import os
import secrets
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from udmsh_pl.errors import InputError
from udmsh_pl.search.store import read_manifest

PORT = 8765
VARIABLE = "UDMSH_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh serve``."""
    add = parser.add_argument
    add("index", type=Path, help="folder that `udmsh index` made")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1); any other "
        "lets other machines in, and needs --token")  # fmt: skip
    add("--port", type=int, default=PORT, help=f"default: {PORT}; 0 takes one that is free")
    add("--token", nargs="?", const="", help="secret that opens the page; without a value one is "
        "made and printed. Others of this machine can read a value in the list of processes: the "
        f"variable {VARIABLE} hides it")  # fmt: skip
    add("--name", action="append", default=[], help="a further name under which the page is "
        "reached, such as that of a proxy, with its port where that is neither 80 nor 443; "
        "repeatable")  # fmt: skip
    add("--root-path", default="", help="path under which a proxy shows the page, such as "
        "/photos; the proxy may pass it on or take it off")  # fmt: skip
    add("--open", action="store_true", help="open the page in the browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise InputError("udmsh serve needs the extra: pip install 'udmsh-pl[serve]'")
    from udmsh_pl.serve.access import Access, is_loopback
    from udmsh_pl.serve.server import listening, serve

    path = arguments.index.expanduser()
    read_manifest(path)  # a mistake is reported before anything listens
    if not 0 <= arguments.port <= 65535:
        raise InputError(f"--port {arguments.port} is none; give a number from 0 to 65535")
    token, host = arguments.token, arguments.host
    if not token:  # given without a value it is a new one where the environment has none
        token = os.environ.get(VARIABLE, "") or ("" if token is None else secrets.token_urlsafe(24))
    root_path = arguments.root_path.rstrip("/")
    access = Access(host, arguments.port, token, arguments.name, root_path)
    sock = listening(host, arguments.port)
    access = replace(access, port=sock.getsockname()[1])
    shown = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{access.port}/"

    def ready() -> None:
        url = address + (f"#token={quote(token)}" if token else "")
        print(f"{path} is at {url}  (Ctrl-C ends it)", flush=True)
        if not is_loopback(host):
            note = "note: the token and the pictures cross the network unencrypted; put a proxy "
            print(f"{note}with TLS in front, or come through ssh -L", file=sys.stderr)
        if arguments.open:
            import webbrowser

            webbrowser.open(url)

    serve(path, access, sock, ready)
    return 0
