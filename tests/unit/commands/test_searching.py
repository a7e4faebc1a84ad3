"""``udmsh index``, ``search`` and ``duplicates`` from the command line, on tiny pictures."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.cli import main


def udmsh(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "pictures & <b>more"
    folder.mkdir()
    for seed in range(6):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC)
        image.save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def index(pictures: Path) -> Path:
    assert udmsh("index", pictures, "--out", pictures.parent / "my.index") == 0
    return pictures.parent / "my.index"


def test_from_a_folder_to_pictures_alike(
    pictures: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert udmsh("search", index, pictures / "3.png", "-k", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert len(found) == 2
    best = {"path": str(pictures / "3.png"), "distance": 0, "similarity": 1.0, "exists": True}
    assert found[0] == best
    assert udmsh("search", index, pictures / "3.png") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_what_is_found_is_shown_in_the_browser(
    pictures: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert udmsh("search", index, pictures / "3.png", "-k", 2, "--open") == 0
    page = Links()
    page.feed(Path(opened[0].removeprefix("file://")).read_text())
    assert sum(link.startswith("data:image/jpeg") for link in page.found) == 2


def test_an_update_tells_what_it_did(
    pictures: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "new.png").write_bytes((pictures / "0.png").read_bytes())
    (pictures / "bad.png").write_text("no picture")
    assert udmsh("index", pictures, "--out", index) == 0
    out = capsys.readouterr().out
    assert "1 added, 0 changed, 0 deleted, 6 unchanged, 1 of them known by content" in out
    assert "left out: bad.png: " in out
    (pictures / "new.png").unlink()
    (pictures / "bad.png").unlink()
    assert udmsh("index", pictures, "--out", index) == 0
    assert "0 added, 0 changed, 1 deleted, 6 unchanged" in capsys.readouterr().out


class Links(HTMLParser):
    """Collects what a page refers to, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_duplicates_writes_a_page_that_needs_nothing(
    pictures: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / pictures.name)
    home, own = tmp_path / pictures.name, tmp_path / "own.index"
    (home / "twin.png").write_bytes((home / "0.png").read_bytes())
    assert udmsh("index", home, "--out", own, "--model", index) == 0
    report = tmp_path / "copies.html"
    assert udmsh("duplicates", own, "--report", report) == 0
    out = capsys.readouterr().out
    assert "1 groups, 1 copies of the first of each, " in out
    assert "nothing is deleted" in out
    page = Links()
    page.feed(report.read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags  # the folder's name is text, not markup
    assert len(page.found) == 4
    assert all(link.startswith(("data:image/jpeg;base64,", "file:///")) for link in page.found)
    assert len(list(home.iterdir())) == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("search", "none", "x.jpg"), "none is no index"),
        (("search", "{index}", "x.jpg"), "x.jpg: not a readable picture (No such file"),
        (("search", "{index}", "{index}/index.json"), "not a readable"),
        (("search", "{index}", "{pictures}/0.png", "-k", "0"), "k is 0"),
        (("index", "none", "--out", "o"), "none: no such folder"),
        (("index", "{pictures}", "--out", "{pictures}"), "something else"),
        (("index", "{other}", "--out", "{index}"), "is the index of"),
        (("index", "{pictures}", "--out", "o", "--model", "none.ckpt"), "no such checkpoint"),
        (("duplicates", "{index}", "--radius", "-1"), "radius is -1"),
        (("export", "none", "--format", "torchscript", "--out", "o"), "none"),
    ],
)
def test_a_mistake_is_one_line(
    pictures: Path,
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    places = {"index": index, "pictures": pictures, "other": tmp_path / "other"}
    filled = [argument.format(**places) for argument in arguments]
    assert udmsh(*filled) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("udmsh: error: ")
    assert told in line
