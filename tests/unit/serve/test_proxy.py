"""The page behind a real nginx, with its plain settings and with ours."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.serving import Client

from .conftest import TOKEN, Serve

NGINX = shutil.which("nginx")
CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 40m;
    client_body_buffer_size 40m;
    proxy_buffering off;
    location /photos/ {{ {settings} }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, settings: str) -> Iterator[int]:
    """The port of an nginx that shows a server under ``/photos/``."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = CONFIGURATION.format(folder=folder, port=port, settings=settings)
    (folder / "nginx.conf").write_text(text)
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(200):
                assert process.poll() is None
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


@pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (apt-get install nginx-light)")
@pytest.mark.parametrize("passed_on", [False, True])
@pytest.mark.parametrize("own_host", [False, True])
def test_under_a_path_of_nginx(
    serve: Serve, index: Path, tmp_path: Path, passed_on: bool, own_host: bool
) -> None:
    name = "photos.example"
    server = serve(index, token=TOKEN, root_path="/photos", names=[name])
    settings = f"proxy_pass http://127.0.0.1:{server.port}{'' if passed_on else '/'};"
    if not own_host:
        settings += " proxy_set_header Host $host;"
    picture = (index.parent / "pictures/07.png").read_bytes()
    with nginx(tmp_path, settings) as port:
        ask = Client(port, TOKEN)
        assert ask("/photos/", host=name).status == 200
        assert ask("/photos/static/app.js", host=name).status == 200
        assert ask("/photos/info", host=name).json["pictures"] == 13
        assert ask("/photos/info", host=name, authorization=None).status == 401
        found = ask("/photos/search?k=1", "POST", picture, host=name, origin=f"https://{name}")
        assert found.json["results"][0]["name"] == "07.png"
        assert ask("/photos/search", "POST", b"x", host=name, origin="http://a.b").status == 403
        moved = ask("/photos", host=name)
        assert moved.status == 301  # by nginx
        unknown = ask("/photos/info", host="evil.example")
        assert unknown.status == (200 if own_host else 421)  # nginx may hide the name
