"""report.html: whole without network, everything escaped, sorted by a click, values on hover."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.browser import CHROMIUM, Page, chromium

from udmsh_pl.reports.curves import measure_charts, precision_recall_charts
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.run_report import page
from udmsh_pl.reports.table import leads
from udmsh_pl.reports.table_rows import Cell, Result
from udmsh_pl.retrieval import evaluate_codes, pack_codes
from udmsh_pl.runs.plan import Plan

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;</script><script>alert(2)</script>$title"
VOID = {"meta", "link", "img", "br"}


@dataclass
class Parsed(HTMLParser):
    """Elements of a page; an end tag that closes nothing, or another one, is an error."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two methods, the second with a hostile name, at two code lengths and two seeds."""
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    labels = np.eye(4, dtype=bool)[np.arange(60) % 4]
    rows: list[Result] = []
    for bits in (8, 16):
        for seed in (0, 1):
            for method, noise in (("itq", 0.9), (HOSTILE, 2.5)):
                generator = np.random.default_rng(seed + bits)
                codes = pack_codes(
                    (labels @ generator.choice([-1.0, 1.0], (4, bits))
                     + noise * generator.standard_normal((60, bits))).astype(np.float32)
                )  # fmt: skip
                report = evaluate_codes(
                    codes[:20], codes[20:], labels[:20], labels[20:], bits, ks=[10, None]
                )
                result = rows_of(report, method, bits, seed)
                if method == "itq":  # a name that is a path is refused by Plan.check
                    run.save_scored(result[0].cell, {"query_codes": codes[:20]}, report)
                rows += result
    for name in ("retrieved.png", "misses.png", "structure.png"):
        Image.new("RGB", (64, 32), "teal").save(run.path / name)
    (run.path / "config.yaml").write_text("seed_everything: 0  # <b>&\n")
    facts = {"versions": {"python": "3.12"}, "command": ["udmsh", "reproduce", HOSTILE]}
    (run.path / "environment.json").write_text(json.dumps(facts))
    plan = Plan([8, 16], [0, 1], [10, None], {"itq": None})
    ahead = [*leads(run, plan), (HOSTILE,) * 6]
    charts = precision_recall_charts(run, plan).values(), measure_charts(rows).values()
    matrix = [(HOSTILE, [("", HOSTILE), (HOSTILE, "**+.100**")])]
    text = page(run.path, rows, ahead, matrix, *map(list, charts), missing=[Cell(HOSTILE, 64, 7)])
    (run.path / "report.html").write_text(text, encoding="utf-8")
    return run


def rows_of(report, method: str, bits: int, seed: int) -> list[Result]:  # type: ignore[no-untyped-def]
    return [
        Result(
            HOSTILE, "1-2", "ab" * 32, method, "net frozen", bits, seed, "map", k, "expected",
            "retrieved", report.map[cut], report.map_worst[cut], report.map_best[cut],
            seed + 1.0, 0.25, 1.5, "9.9",
        )
        for k, cut in (("10", 10), ("all", None))
    ]  # fmt: skip


def test_the_page_is_whole_and_loads_nothing(run: RunDirectory) -> None:
    text = (run.path / "report.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    sources = [
        attributes[name]
        for _, attributes in parsed.elements
        for name in ("src", "href", "data", "srcset", "xlink:href", "action")
        if name in attributes
    ]
    assert len([one for one in sources if one.startswith("data:image/png;base64,")]) == 3
    assert all(one.startswith(("data:", "#")) for one in sources)
    assert "url(" not in text
    assert "@import" not in text
    names = {attributes.get("id") for tag, attributes in parsed.elements if tag == "section"}
    linked = {one[1:] for one in sources if one.startswith("#")}
    assert linked == names
    assert {"results", "curves", "missed", "costs", "environment", "how-to-cite"} <= names
    assert "10.1109/TCSVT.2020.3032402" in text


def test_no_name_becomes_markup(run: RunDirectory) -> None:
    parsed = Parsed((run.path / "report.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 1
    assert tags.count("img") == 3
    assert not any(
        name.startswith("on") or name == "style" for _, found in parsed.elements for name in found
    )
    assert HOSTILE in parsed.words  # as text, also with its $
    shown = [found["data-v"] for _, found in parsed.elements if "point" in found.get("class", "")]
    assert any(one.startswith(HOSTILE) for one in shown)
    assert f"Missing: {HOSTILE}-64-7." in parsed.words


def test_values_are_those_of_the_run(run: RunDirectory) -> None:
    parsed = Parsed((run.path / "report.html").read_text(encoding="utf-8"))
    shown = [found["data-v"] for _, found in parsed.elements if "point" in found.get("class", "")]
    curves = [run.scores(cell) for cell in (Cell("itq", 16, 0), Cell("itq", 16, 1))]
    precision, recall = (
        np.mean([getattr(one, name)[4] for one in curves], axis=0)
        for name in ("precision", "recall")
    )
    assert f"itq\nradius 4: precision {precision:.3f}, recall {recall:.3f}" in shown
    every = [np.mean(one.average_precision[None]) for one in curves]
    assert any(one.startswith(f"itq\nmAP@ALL, 16 bits: {np.mean(every):.3f} ±") for one in shown)
    assert f"{np.mean(every):.3f} " in parsed.words


@pytest.fixture(scope="module")
def browser(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_a_browser_shows_sorts_and_tells(run: RunDirectory, browser: Page) -> None:
    browser.open((run.path / "report.html").as_uri())
    click = "document.querySelectorAll('#results th button')[1].click()"
    rows = "[...document.querySelector('#results tbody').rows]"
    column = f"{rows}.map((row) => Number(row.cells[1].dataset.v))"
    before = browser.ask(column)
    browser.ask(click)
    falling = browser.ask(column)
    browser.ask(click)
    assert falling == sorted(before, reverse=True)
    assert browser.ask(column) == sorted(before)
    state = "document.querySelectorAll('#results th')[1].getAttribute('aria-sort')"
    assert browser.ask(state) == "ascending"

    point = "document.querySelector('.point:not(.quiet)')"
    browser.ask(f"{point}.scrollIntoView({{block: 'center'}})")
    box = browser.ask(f"{point}.getBoundingClientRect().toJSON()")
    browser.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert browser.ask("document.getElementById('tip').hidden") is False
    said = browser.ask("document.getElementById('tip').textContent")
    assert re.match(r"itq\nradius \d+: precision 0\.\d+, recall 0\.\d+", said)
    browser.ask("document.querySelector('.key').click()")
    assert browser.ask("document.querySelectorAll('.line.hidden').length") == 4  # 2 + 2 charts

    assert browser.complaints() == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (1200, True)])
def test_it_fits_its_window_in_both_schemes(
    run: RunDirectory, browser: Page, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.open((run.path / "report.html").as_uri(), width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") == width
    browser.screenshot(tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as picture:
        assert (picture.convert("L").getpixel((3, 3)) < 60) is dark


def test_configuration_is_still_yaml(run: RunDirectory) -> None:
    parsed = Parsed((run.path / "report.html").read_text(encoding="utf-8"))
    [text] = [words for words in parsed.words if words.startswith("seed_everything")]
    assert yaml.safe_load(text) == {"seed_everything": 0}
