"""The documentation site in a browser: no page asks anybody else for anything, and the search finds."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect
from watched_page import Open

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def origin(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_no_page_asks_anybody_else(open_page: Open, site: Path, origin: str) -> None:
    page = open_page(origin)
    for path in sorted(site.glob("*.html")):
        if path.name != "404.html":
            page.open(path.name).wait_for_load_state("networkidle")


def test_the_search_finds(open_page: Open, origin: str) -> None:
    tab = open_page(origin, viewport={"width": 1300, "height": 900}).open("index.html")
    tab.keyboard.press("/")
    tab.keyboard.type("damping")
    expect(tab.locator(".md-search-result__item").first).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_lost_on_a_narrow_page(open_page: Open, origin: str, theme: str) -> None:
    page = open_page(origin, viewport={"width": 360, "height": 640}, color_scheme=theme)
    for name in ("index.html", "scores.html", "tutorial.html", "spec.html"):
        tab = page.open(name)
        assert tab.locator("h1").is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, name
