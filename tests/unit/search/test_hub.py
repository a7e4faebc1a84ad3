"""Encoders go to a hub and come back; the hub is a small server of ours on 127.0.0.1."""

import base64
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search.hub import is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"encoder.json", "encoder.safetensors", "README.md"}


class Hub(BaseHTTPRequestHandler):
    """What `huggingface_hub` asks for when it creates, commits and downloads."""

    stored: dict[str, bytes]
    asked: list[str]

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            if asked["name"] == "forbidden":
                return self.answer(b"{}", 403)
            said: Any = {"url": f"http://{self.headers['Host']}/me/{asked['name']}"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            said = {"files": [{"path": one["path"], **mode} for one in files]}
        elif "/commit/" in self.path:
            for line in body.splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    value = operation["value"]
                    self.stored[value["path"]] = base64.b64decode(value["content"])
            said = {
                "success": True,
                "commitOid": COMMIT,
                "commitUrl": f"http://{self.headers['Host']}/me/hash/commit/{COMMIT}",
            }
        else:
            said = {"errors": [], "warnings": []}  # of the card's head
        return self.answer(json.dumps(said).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if not self.path.startswith("/me/hash/resolve/") or name not in self.stored:
            return self.answer(b"", 404, X_Error_Code="RepoNotFound")
        tag = f'"{abs(hash(self.stored[name]))}"'
        return self.answer(self.stored[name], ETag=tag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed: an extra of udmsh-pl"
    )
    Hub.stored, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("UDMSH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield Hub
    server.shutdown()
    server.server_close()


def test_an_encoder_goes_to_the_hub_and_comes_back(built: Path, hub: type[Hub]) -> None:
    own = HashEncoder.load(built / "index")
    assert COMMIT in own.push_to_hub("me/hash", token="hf_none")
    assert hub.stored.keys() == FILES
    card = hub.stored["README.md"].decode()
    assert card.startswith("---\nlibrary_name: udmsh-pl\n")
    assert f"An image hash of {own.bits} bits" in card
    found = HashEncoder.from_pretrained("me/hash", revision="main")
    paths = sorted((built / "pictures").glob("*.png"))
    np.testing.assert_array_equal(found.encode(paths).codes, own.encode(paths).codes)
    asked = [path for path in hub.asked if "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in asked} == FILES - {"README.md"}
    index = ImageIndex.build(built / "pictures", HashEncoder.load("me/hash"))
    assert index.search(paths[3], k=1)[0].path == paths[3]


def test_a_folder_is_opened_as_what_it_is(built: Path, tmp_path: Path) -> None:
    own = HashEncoder.load(built / "index")
    own.save(tmp_path / "folder")
    assert HashEncoder.from_pretrained(str(tmp_path / "folder")).spec == own.spec


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_what_a_stranger_left_there_is_one_line(
    built: Path, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    HashEncoder.load(built / "index").push_to_hub("me/hash", token="hf_none")
    whole = dict(hub.stored)
    plain = json.loads(whole["encoder.json"])
    from huggingface_hub import constants

    for number, change in enumerate(
        (
            {"encoder.safetensors": pickle.dumps(Evil())},
            {"encoder.safetensors": whole["encoder.safetensors"][:-9]},
            {"encoder.json": b"[" * 50_000},
            {"encoder.json": json.dumps(plain | {"method": "os.system"}).encode()},
        )
    ):
        hub.stored |= whole | change
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"hub{number}"))
        with pytest.raises(InputError) as told:
            HashEncoder.load("me/hash")
        assert "\n" not in str(told.value)
    assert "run" not in capfd.readouterr().out


def test_what_goes_wrong_on_the_way_is_one_line(built: Path, hub: type[Hub]) -> None:
    with pytest.raises(InputError, match="me/none cannot be fetched from the hub"):
        HashEncoder.load("me/none")
    with pytest.raises(InputError, match="forbidden cannot be written to the hub"):
        HashEncoder.load(built / "index").push_to_hub("me/forbidden", token="hf_none")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("me/hash", True), ("me/hash.v2", True), ("runs/last.ckpt", False), ("a/b/c", False),
     ("/etc/passwd", False), ("hash", False), ("../up", False), ("me/", False)],
)  # fmt: skip
def test_names_of_the_hub(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one
