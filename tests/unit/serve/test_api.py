"""What the API answers, against the index itself; and that it follows the index on the disk."""

import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.serving import Client, draw, update

from udmsh_pl.search import ImageIndex
from udmsh_pl.search.store import MANIFEST

from .conftest import Serve

POSITION = {0x0112: 6, 0x010F: "A camera"}  # turned by a quarter


def test_the_collection_and_its_pictures(client: Client, index: Path) -> None:
    opened = ImageIndex.open(index)
    info = client("/info").json
    assert (info["pictures"], info["bits"], info["version"]) == (13, 16, 1)
    assert (info["title"], info["root"]) == ("pictures", str(opened.root))
    listed = client("/pictures?limit=5&offset=9").json
    assert listed["total"] == 13
    assert [one["name"] for one in listed["pictures"]] == list(opened.rows.names)[9:14]
    for one in listed["pictures"]:
        facts = (opened.root / one["name"]).stat()
        assert (one["size"], one["modified"]) == (facts.st_size, round(facts.st_mtime, 3))
        assert (one["width"], one["height"]) == (128, 96)
    found = client("/pictures?name=%20LOW/").json
    assert [one["name"] for one in found["pictures"]] == ["below/last.png"]
    assert client("/pictures?offset=1000000").json["pictures"] == []


def test_thumbnails_and_pictures(client: Client, index: Path) -> None:
    opened = ImageIndex.open(index)
    for row in range(len(opened)):
        answer = client(f"/thumbnail/{row}?version=1")
        assert answer.body == opened.thumbnail(row)
        assert answer.headers["content-type"] == "image/jpeg"
        assert "immutable" in answer.headers["cache-control"]
    assert client("/thumbnail/0").headers["cache-control"] == "no-store"
    with Image.open(io.BytesIO(client("/picture/4").body)) as image:
        assert (image.format, image.size) == ("JPEG", (128, 96))


def test_similar_is_what_the_index_says(client: Client, index: Path) -> None:
    opened = ImageIndex.open(index)
    answer = client("/similar/5?k=7").json
    expected = opened.similar(5, 7)
    told = [(one["id"], one["distance"], one["similarity"]) for one in answer["results"]]
    assert told == [(one.row, one.distance, one.similarity) for one in expected]
    near = client("/similar/5?k=13&radius=6").json["results"]
    assert [one["id"] for one in near] == [
        one.row for one in opened.similar(5, 13) if one.distance <= 6
    ]


def test_an_upload_finds_its_copies_and_says_how_sure_it_is(client: Client, index: Path) -> None:
    pictures = index.parent / "pictures"
    results = client("/search?k=13", "POST", (pictures / "03.png").read_bytes()).json["results"]
    assert [one["name"] for one in results[:2]] == ["03.png", "03 small.jpg"]
    assert [one["certainty"] for one in results[:2]] == ["same", "same"]
    assert results[0]["distance"] == 0
    assert "same" not in [one["certainty"] for one in results[2:]]
    info = client("/info").json
    for one in results[2:]:
        level = "weak"
        level = "likely" if one["similarity"] >= info["likely"] else level
        level = "strong" if one["similarity"] >= info["strong"] else level
        assert one["certainty"] == level or abs(one["similarity"] - info[level]) < 1e-3


def form(content: bytes, name: str = "x.jpg") -> tuple[bytes, str]:
    """A body as ``curl -F note=hello -F file=@x.jpg`` sends it, and its media type."""
    boundary = "------------------------d74496d66958873e"
    lines = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = lines.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def test_an_upload_by_form_is_the_file_in_it(client: Client, index: Path) -> None:
    for name in ("03.png", "03 small.jpg"):
        content = (index.parent / "pictures" / name).read_bytes()
        plain = client("/search?k=13", "POST", content).json["results"]
        body, kind = form(content, name)
        for boundary in (kind, kind.replace("------------------------d74496d66958873e", '"a b"')):
            given = body.replace(b"------------------------d74496d66958873e", b"a b")
            sent = body if boundary is kind else given
            assert (
                client("/search?k=13", "POST", sent, content_type=boundary).json["results"] == plain
            )
    body, kind = form(b"\r\n--no picture\r\n")
    assert client("/search", "POST", body, content_type=kind).status == 415
    for sent in (body[:200], b"", body.replace(b"filename", b"filing"), b"--\r\n--"):
        answer = client("/search", "POST", sent, content_type=kind)
        assert (answer.status, "curl -F file=@" in answer.json["detail"]) == (400, True)
    flood = b"--a\r\n\r\n" * 500_000 + body.replace(kind.partition("=")[2].encode(), b"a")
    start = time.monotonic()
    answer = client("/search", "POST", flood, content_type="multipart/form-data; boundary=a")
    assert (answer.status, time.monotonic() - start < 10) == (400, True)
    for odd in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; b=\xff",
    ):
        assert client("/search", "POST", body, content_type=odd).status == 400


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_curl_sends_a_form(client: Client, index: Path) -> None:
    picture = index.parent / "pictures/07.png"
    command = [
        "curl",
        "-sS",
        "-F",
        f"file=@{picture}",
        f"http://127.0.0.1:{client.port}/search?k=1",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(answer)["results"][0]["name"] == "07.png"


def test_certainty_is_measured_on_a_typical_picture(client: Client, index: Path) -> None:
    rows = ImageIndex.open(index).rows
    features, bits = rows.features.astype(float), np.unpackbits(rows.codes, axis=1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    of_codes = 1 - 2 * (bits[:, None] != bits).mean(2)
    pairs = (0.8 * features @ features.T + 0.2 * of_codes)[
        ~np.eye(len(features), dtype=bool)
    ].reshape(13, 12)
    info = client("/info").json
    for name, share in (("strong", 0.999), ("likely", 0.99)):
        typical = np.median(np.quantile(pairs, share, axis=1))
        assert info[name] == pytest.approx(typical, abs=1e-4)


def test_duplicates_and_map(client: Client, index: Path) -> None:
    found = client.finished("/duplicates?radius=16").json
    (group,) = found["groups"]
    assert [one["name"] for one in group] == ["03.png", "03 small.jpg"]
    assert [one["relation"] for one in group] == ["first", "resized"]
    assert (found["total"], found["copies"], found["bytes"]) == (1, 1, group[1]["size"])
    assert client.finished("/duplicates?radius=16&offset=1").json["groups"] == []
    plane = client.finished("/map").json
    places = np.array(plane["places"])
    assert places.shape == (13, 2)
    assert places.min() >= 0
    assert places.max() <= 10_000
    with Image.open(io.BytesIO(client.finished("/map/tiles").body)) as sheet:
        assert sheet.size == (plane["tile"] * plane["columns"], plane["tile"])
        row = plane["tiles"][5]
        side = plane["tile"]
        tile = np.asarray(sheet.crop((5 * side, 0, 6 * side, side)))
    with Image.open(io.BytesIO(client(f"/thumbnail/{row}").body)) as thumbnail:
        middle = np.asarray(thumbnail.crop((16, 0, 112, 96)))
    assert np.abs(tile.mean((0, 1)) - middle.mean((0, 1))).max() < 4


def test_what_takes_long_is_asked_for_again(
    serve: Serve, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow(self: ImageIndex, radius: int | None) -> list[object]:
        calls.append(radius)
        time.sleep(0.2)
        return []

    monkeypatch.setattr(ImageIndex, "duplicates", slow)
    ask = serve(index, {"wait": 0.0})
    first = ask("/duplicates")
    assert (first.status, first.headers["retry-after"]) == (202, "1")
    time.sleep(0.4)
    assert ask("/duplicates").json["groups"] == []
    assert calls == [None]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/thumbnail/13", 404),
        ("/similar/99999999999999999999", 404),
        ("/picture/-1", 422),
        ("/thumbnail/1.5", 422),
        ("/thumbnail/..%2f..%2fetc%2fpasswd", 404),
        ("/similar/1?k=0", 422),
        ("/similar/1?k=501", 422),
        ("/similar/1?radius=-1", 422),
        ("/similar/1?version=7", 409),
        ("/duplicates?version=2", 409),
        ("/pictures?limit=1000000000", 422),
        ("/nothing", 404),
        ("/static/../api.py", 404),
        ("/static/..%2fapi.py", 404),
        ("/static/nothing.js", 404),
    ],
)
def test_what_is_not_there_is_told(client: Client, path: str, status: int) -> None:
    answer = client(path)
    assert answer.status == status
    assert answer.json["detail"]


def test_a_collection_that_is_too_large_for_a_map(serve: Serve, index: Path) -> None:
    ask = serve(index, {"most_at_once": 12})
    assert "no map of more than 12 pictures" in ask("/map").json["detail"]
    assert ask("/map").status == ask("/duplicates").status == 422
    assert ask("/similar/3").status == 200


def test_rows_that_stay_on_the_disk(
    serve: Serve, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from udmsh_pl.search import store

    draw(place.parent / "pictures/zz.png", 300)
    update(place)  # a second segment
    expected = serve(place)("/similar/2?k=20").json["results"]
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    ask = serve(place)
    assert ask("/similar/2?k=20").json["results"] == expected
    assert ask("/pictures?name=zz").json["total"] == 1
    assert ask("/picture/3").status == ask("/map").status == 200
    assert ask("/duplicates?radius=16").json["copies"] == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(client: Client, method: str) -> None:
    for path in ("/picture/0", "/info", "/search", "/"):
        assert client(path, method).status == 405


def test_a_search_leaves_nothing_behind(client: Client, index: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in index.rglob("*") if path.is_file()}

    before = content()
    assert client("/search", "POST", (index.parent / "pictures/01.png").read_bytes()).status == 200
    assert content() == before


def test_the_api_is_described_without_anything_from_elsewhere(client: Client) -> None:
    described = client("/openapi.json").json
    paths = described["paths"]
    assert {"/search", "/similar/{id}", "/duplicates", "/thumbnail/{id}", "/map"} <= paths.keys()
    assert "image/*" in paths["/search"]["post"]["requestBody"]["content"]
    assert "http" not in json.dumps(paths)
    assert client("/docs").status == client("/redoc").status == 404
    assert b"static/document.js" in client("/api").body


def test_a_new_version_is_served_and_ids_of_the_old_one_are_refused(
    serve: Serve, place: Path
) -> None:
    ask = serve(place)
    pictures = place.parent / "pictures"
    assert ask("/thumbnail/0?version=1").status == 200
    draw(pictures / "000 new.png", 400)
    update(place)
    answer = ask("/thumbnail/0?version=1")
    assert (answer.status, ask("/info").json["version"]) == (409, 2)
    assert ask("/info").json["pictures"] == 14
    best = ask("/search?k=1", "POST", (pictures / "000 new.png").read_bytes()).json["results"][0]
    assert (best["name"], best["certainty"]) == ("000 new.png", "same")


def test_a_damaged_index_does_not_end_what_is_served(serve: Serve, place: Path) -> None:
    ask = serve(place)
    manifest = (place / MANIFEST).read_text()
    (place / MANIFEST).write_text(manifest[:-200])
    assert ask("/info").json["problem"]
    assert ask("/similar/0").status == 200
    shutil.copy(place / MANIFEST, place / "broken")
    (place / MANIFEST).unlink()
    assert ask("/thumbnail/0").status == 200
    (place / MANIFEST).write_text(manifest)
    assert not ask("/info").json["problem"]


def test_a_file_that_is_no_longer_the_one_indexed_is_not_shown(serve: Serve, place: Path) -> None:
    ask = serve(place)
    pictures = place.parent / "pictures"
    names = [one["name"] for one in ask("/pictures").json["pictures"]]
    secret = draw(place.parent / "secret.png", 900)
    (pictures / "05.png").unlink()
    (pictures / "05.png").symlink_to(secret)
    (pictures / "06.png").unlink()
    for name in ("05.png", "06.png"):
        answer = ask(f"/picture/{names.index(name)}")
        assert answer.status == 410
        assert "udmsh index" in answer.json["detail"]
        assert ask(f"/thumbnail/{names.index(name)}").status == 200


def test_metadata_stays_here_and_the_picture_is_upright(serve: Serve, place: Path) -> None:
    exif = Image.Exif()
    exif.update(POSITION)
    exif.get_ifd(0x8825)[1] = "N"  # where it was taken
    path = place.parent / "pictures/turned.jpg"
    Image.new("RGB", (3000, 1000), "teal").save(path, exif=exif)
    update(place)
    ask = serve(place)
    (row,) = (one["id"] for one in ask("/pictures?name=turned").json["pictures"])
    with Image.open(io.BytesIO(ask(f"/picture/{row}").body)) as image:
        assert image.size == (683, 2048)
        assert not image.getexif()
        assert "exif" not in image.info


def test_names_that_are_no_utf8(serve: Serve, tmp_path: Path) -> None:
    from tests.serving import make_collection

    (tmp_path / "pictures").mkdir()
    index = make_collection(tmp_path / "made")
    pictures = tmp_path / "made/pictures"
    hostile = ("b\udcffd.png", "<img src=x onerror=alert(1)>.png", "…\u202egnp.exe.png")
    for seed, name in enumerate(hostile):
        draw(tmp_path / "one.png", 60 + seed)
        shutil.move(tmp_path / "one.png", pictures / name)
    update(index)
    ask = serve(index)
    names = [one["name"] for one in ask("/pictures").json["pictures"]]
    assert {"b?d.png", *hostile[1:]} <= set(names)
    for row in range(len(names)):
        assert ask(f"/picture/{row}").status == 200
        assert ask(f"/similar/{row}").status == 200
