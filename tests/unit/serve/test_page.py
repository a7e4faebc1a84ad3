"""The page in a browser: pictures are searched, copies compared, the map looked at; by keys too.

With ``UDMSH_SCREENSHOTS`` set to the address of a server, the last test writes ``docs/serve_*.png``
from it.
"""

import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image
from tests.browser import CHROMIUM, Page, chromium
from tests.serving import Client, draw, update

from udmsh_pl.serve.api import page_files

from .conftest import TOKEN, Serve

HOSTILE = "<img src=x onerror=alert(1)>&amp;\"'.png"
KEYS = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, "/": 191, "2": 50, "+": 187}
DOCS = Path(__file__).resolve().parents[3] / "docs"
# what hides from a page what it does not come from itself
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(")


class Browser:
    """A page of ours; each step waits until what it asks for is there."""

    def __init__(self, page: Page, client: Client) -> None:
        self.page, self.root = page, f"http://127.0.0.1:{client.port}/"

    def open(self, place: str, width: int = 1200, dark: bool = False, height: int = 860) -> None:
        self.page.open("about:blank", width, height, dark)
        self.page.open(self.root + place, width, height, dark)
        self.until("!document.querySelector('main').hasAttribute('aria-busy') && document.title")

    def until(self, expression: str) -> None:
        end = time.monotonic() + 30
        while not self.page.ask(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression}: {self.text()[:500]}"
            time.sleep(0.02)

    def text(self) -> str:
        return str(self.page.ask("document.querySelector('main').innerText"))

    def click(self, selector: str) -> None:
        self.until(f"document.querySelector({selector!r})")
        self.page.ask(f"document.querySelector({selector!r}).click()")

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        facts = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
        self.page.send("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self.page.send("Input.dispatchKeyEvent", type="keyUp", **facts)

    def choose(self, file: Path) -> None:
        found = self.page.send("Runtime.evaluate", expression="document.getElementById('file')")
        self.page.send(
            "DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"]
        )

    def give(self, event: str, target: str, file: bytes = b"", kind: str = "image/png") -> None:
        """Drop or paste a file."""
        self.page.ask(
            f"""{{ const data = new DataTransfer();
            data.items.add(new File([new Uint8Array({list(file)})], "given", {{type: "{kind}"}}));
            {target}.dispatchEvent(new {event[0].upper()}{event[1:]}) }}"""
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def browser(page: Page, client: Client) -> Iterator[Browser]:
    page.events.clear()
    found = Browser(page, client)
    yield found
    assert not page.complaints()
    own = (found.root, f"blob:{found.root}", "about:blank")
    assert not [url for url in page.requests() if not url.startswith(own)]


def names(browser: Browser, selector: str = "main") -> list[str]:
    found = browser.page.ask(
        f"[...document.querySelectorAll({selector!r} + ' .card a')].map(a => a.title)"
    )
    return [str(name) for name in found]


def test_one_searches_on_from_picture_to_picture(browser: Browser) -> None:
    browser.open("")
    assert len(names(browser)) == 13
    assert browser.page.ask("document.title") == "pictures"
    browser.click(".card a[title='03.png']")
    browser.until("document.querySelector('.panel')")
    assert names(browser, ".level.same") == ["03 small.jpg"]
    assert len(names(browser)) == 12
    looks = {
        level: browser.page.ask(
            f"getComputedStyle(document.querySelector('.level.{level} .card img')).cssText + "
            f"getComputedStyle(document.querySelector('.level.{level} .card a')).outline"
        )
        for level in ("same", "weak")
    }
    assert looks["same"] != looks["weak"]
    browser.page.ask(
        "{const radius = document.getElementById('radius'); radius.value = 4;"
        "radius.dispatchEvent(new Event('input'))}"
    )
    assert "4 of 16 bits: 1 of 12 shown" in browser.text()
    assert names(browser) == ["03 small.jpg"]
    browser.click(".card a")
    browser.until("document.querySelector('.panel h1').title === '03 small.jpg'")


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_of_ones_own(browser: Browser, index: Path, way: str) -> None:
    file = index.parent / "pictures/07.png"
    browser.open("")
    if way == "choose":
        browser.choose(file)
    elif way == "drop":
        browser.give(
            "dragEvent('drop', {dataTransfer: data, bubbles: true})", "window", file.read_bytes()
        )
    else:
        browser.give("clipboardEvent('paste', {clipboardData: data})", "window", file.read_bytes())
    browser.until("document.querySelector('.panel')")
    assert names(browser, ".level.same") == ["07.png"]
    assert len(names(browser)) == 13


def test_what_is_no_picture_is_told(browser: Browser) -> None:
    browser.open("")
    browser.give(
        "dragEvent('drop', {dataTransfer: data, bubbles: true})", "window", b"no picture at all"
    )
    browser.until("document.querySelector('[role=alert] h1')")
    assert "not a readable picture" in browser.text()
    browser.page.events[:] = [  # the browser tells of the 415 itself
        one for one in browser.page.events if "415" not in str(one)
    ]


def test_copies_and_the_viewer(browser: Browser) -> None:
    browser.open("#/copies")
    browser.until("document.querySelector('.group')")
    assert "1 group of copies" in browser.text()
    told = browser.page.ask("document.querySelector('.group').innerText")
    for word in ("largest", "resized", "128 × 96", "64 × 48", "03 small.jpg"):
        assert word in told
    browser.click(".group .picture")
    browser.until("document.getElementById('viewed').src.includes('/picture/')")
    browser.key("ArrowRight")
    browser.until("document.getElementById('facts').innerText.includes('03 small.jpg')")
    browser.key("Escape")
    browser.until("!document.getElementById('viewer').open")


def test_the_map(browser: Browser) -> None:
    browser.open("#/map")
    browser.until("document.querySelector('canvas')")
    painted = (
        "(() => {const c = document.querySelector('canvas'); const pen = new OffscreenCanvas("
        "c.width, c.height).getContext('2d', {willReadFrequently: true}); pen.drawImage(c, 0, 0);"
        "const d = pen.getImageData(0, 0, c.width, c.height).data; let n = 0;"
        "for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n})()"
    )
    browser.until(f"{painted} > 5000")
    before = browser.page.ask(painted)
    browser.page.ask("document.querySelector('canvas').focus()")
    for _ in range(4):
        browser.key("+")
    browser.until(f"{painted} !== {before}")
    browser.until("/png|jpg/.test(document.querySelector('.told').innerText)")
    browser.key("Enter")
    browser.until("location.hash.startsWith('#/like/') && document.querySelector('.panel')")
    browser.click(".panel a.button")
    browser.until("document.querySelector('.unmark')")


def test_keys(browser: Browser) -> None:
    browser.open("")
    browser.key("/")
    browser.page.send("Input.insertText", text="LAST")
    browser.until("document.querySelectorAll('main .card').length === 1")
    assert names(browser) == ["below/last.png"]
    browser.key("Enter")
    browser.key("ArrowRight")
    browser.until("document.activeElement.title === 'below/last.png'")
    browser.key("Enter")
    browser.until("document.querySelector('.panel')")
    browser.key("ArrowRight")
    first = browser.page.ask("document.activeElement.title")
    browser.key("ArrowDown")
    browser.until(f"document.activeElement.title !== {first!r}")
    browser.key("2")
    browser.until("document.querySelector('.group')")
    browser.key("Escape")
    browser.until("document.querySelector('.panel')")


def test_a_name_with_a_percent_sign(browser: Browser) -> None:
    for place in ("#/name/100%", "#/name/100%25", "#/name/%E0%A4%A"):
        browser.open(place)
        assert "No picture" in browser.text()
    assert browser.page.ask("document.getElementById('name').value") == "%E0%A4%A"


def test_a_step_back_takes_the_text_of_the_field_back(browser: Browser) -> None:
    field = "document.getElementById('name').value"
    browser.open("")
    browser.key("/")
    browser.page.send("Input.insertText", text="LAST")
    browser.until("document.querySelectorAll('main .card').length === 1")
    browser.page.ask(f"{field} = '03'; document.getElementById('find').requestSubmit()")
    browser.until("document.querySelectorAll('main .card').length === 2")
    browser.page.ask("history.back()")
    browser.until(f"{field} === 'LAST' && document.querySelectorAll('main .card').length === 1")
    browser.page.ask("history.back()")
    browser.until(f"{field} === '' && document.querySelectorAll('main .card').length === 13")
    browser.click(".card a[title='03.png']")
    browser.until("document.querySelector('.panel')")
    assert browser.page.ask(field) == ""


def test_below_a_root_path_all_addresses_are_relative(
    page: Page, serve: Serve, index: Path
) -> None:
    page.events.clear()
    client = serve(index, token=TOKEN, root_path="/photos")
    page.open(f"http://127.0.0.1:{client.port}/photos#token={TOKEN.replace(' ', '%20')}")
    browser = Browser(page, client)
    browser.until("document.querySelectorAll('main .card').length === 13")
    browser.until("[...document.querySelectorAll('main img')].every(one => one.naturalWidth)")
    for place, shown in (("#/copies", ".group"), ("#/map", "canvas"), ("#/like/4", ".panel")):
        page.ask(f"location.hash = '{place}'")
        browser.until(f"document.querySelector('{shown}')")
    browser.choose(index.parent / "pictures/07.png")
    browser.until("document.querySelector('.level.same .card a')?.title === '07.png'")
    page.open(f"{browser.root}photos/api")
    browser.until("document.querySelectorAll('.path').length > 5")
    assert f"{browser.root}photos/search?k=5" in page.ask("document.body.innerText")
    own = (f"{browser.root}photos", f"blob:{browser.root}")
    assert not [url for url in page.requests() if not url.startswith(own)]
    assert not page.complaints()


@pytest.mark.parametrize("place", ["", "#/like/4", "#/copies", "#/map"])
def test_any_width_and_the_dark(browser: Browser, place: str) -> None:
    for width, dark in ((360, False), (1200, True)):
        browser.open(place, width, dark)
        check_page(browser, width, dark)


def check_page(browser: Browser, width: int, dark: bool) -> None:
    assert browser.page.ask("document.documentElement.scrollWidth") <= width
    red, green, blue = (
        int(part)
        for part in re.findall(
            r"\d+", browser.page.ask("getComputedStyle(document.body).backgroundColor")
        )[:3]
    )
    assert (red + green + blue < 200) == dark
    unnamed = browser.page.ask(
        "[...document.querySelectorAll('button, a, input, canvas')].filter(e => e.offsetParent && "
        "!(e.getAttribute('aria-label') || e.innerText?.trim() || e.title || e.labels?.length))"
        ".map(e => e.outerHTML)"
    )
    assert not unnamed
    assert not browser.page.ask("document.querySelectorAll('img:not([alt])').length")


def test_the_token_is_asked_for_and_comes_with_the_address(
    page: Page, serve: Serve, index: Path
) -> None:
    client = serve(index, token=TOKEN)
    browser = Browser(page, client)
    page.open(browser.root)
    browser.until("document.getElementById('login').open")
    for given, left in (("a wrong token", True), (TOKEN, False)):
        page.ask(f"document.getElementById('token').value = {given!r}")
        browser.click("#login-form button")
        browser.until(
            "document.getElementById('login-wrong').innerText"
            if left
            else "!document.getElementById('login').open"
        )
    browser.until("document.querySelectorAll('main .card').length === 13")
    client = serve(index, token=TOKEN)
    page.open(f"http://127.0.0.1:{client.port}/#token={TOKEN.replace(' ', '%20')}")
    browser.until("document.querySelectorAll('main .card').length === 13")
    assert TOKEN.split()[0] + "%20" not in page.ask("location.href")
    page.events.clear()


def test_names_are_text_and_a_new_version_is_shown(page: Page, serve: Serve, place: Path) -> None:
    browser = Browser(page, serve(place))
    browser.open("")
    draw(place.parent / "pictures" / HOSTILE.replace("/", ""), 77)
    update(place)
    page.ask("document.dispatchEvent(new CustomEvent('outdated'))")
    browser.until("document.querySelectorAll('main .card').length === 14")
    assert HOSTILE in names(browser)
    assert page.ask("document.querySelectorAll('img[onerror]').length") == 0
    page.events.clear()


class Links(HTMLParser):
    """What a page refers to, and what stands in it that a policy would refuse."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert "style" not in given
        assert not [name for name in given if name.startswith("on")]
        assert tag != "style"
        assert tag != "script" or given.get("src")
        self.found += [str(given[name]) for name in ("src", "href") if given.get(name)]


def test_the_files_need_nothing_from_elsewhere() -> None:
    page = page_files()
    for name, file in page.items():
        text = bytes(file.body).decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        if name.endswith(".html"):
            links = [link for link in Links(text).found if link.startswith("static/")]
            assert links
            assert {link.removeprefix("static/") for link in links} <= page.keys()
        if name.endswith(".js"):
            assert not [word for word in FORBIDDEN if word in text], name
            imported = re.findall(r'from "\./([\w.]+)"', text)
            assert set(imported) <= page.keys()
            assert len(text.splitlines()) <= 280
    assert {entry.name for entry in files("udmsh_pl.serve").joinpath("static").iterdir()} == set(
        page
    )


SHOTS = {  # name -> place, width, height, dark
    "serve_pictures": ("", 1280, 800, False),
    "serve_search": ("#/like/{id}", 1280, 800, False),
    "serve_dark": ("#/like/{id}", 1280, 800, True),
    "serve_copies": ("#/copies", 1280, 800, False),
    "serve_map": ("#/map", 1280, 800, True),
    "serve_phone": ("#/like/{id}", 390, 844, False),
}


@pytest.mark.slow
def test_screenshots_for_the_docs(page: Page) -> None:
    given = os.environ.get("UDMSH_SCREENSHOTS")  # ADDRESS of a running server, then /#ID
    if not given:
        pytest.skip("set UDMSH_SCREENSHOTS to http://127.0.0.1:PORT/#ID of a server")
    address, _, row = given.partition("/#")
    browser = Browser(page, Client(int(address.rpartition(":")[2])))
    for name, (place, width, height, dark) in SHOTS.items():
        browser.open(place.format(id=row), width, dark, height)
        browser.until(
            "!document.querySelector('.working') && [...document.querySelectorAll('main img')]"
            ".every(one => one.complete || one.getBoundingClientRect().top > innerHeight)"
        )
        time.sleep(1)  # a map's own thumbnails
        page.screenshot(DOCS / f"{name}.png")
        with Image.open(DOCS / f"{name}.png") as image:  # 256 colours: a third of the bytes
            few = image.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        few.save(DOCS / f"{name}.png", optimize=True)
