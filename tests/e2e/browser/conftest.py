"""A real Chromium on a real gateway: one browser for each module, one blank context for each test."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from playwright.sync_api import Browser, sync_playwright
from running import RunningGateway
from watched_page import Open, WatchedPage

ALLOWED = ("--allow-examples", "--allow-thumbnails")
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser; without one these tests skip, saying how to get it."""
    named = os.environ.get("PROPONENT_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("no Chromium: scripts/setup --browser installs it, PROPONENT_CHROMIUM names another")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """No longer than a module: while it is open no other test of this process can run an event loop."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def gateway(chromium: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The gateway of all these tests; it serves what an operator may allow."""
    running = RunningGateway(digits / "store", tmp_path_factory.mktemp("explorer") / "gateway.log", *ALLOWED)
    try:
        running.wait_ready()
        yield running
        running.stop()
    finally:
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages of an origin (keywords go to the context), and fails the test for what went wrong in them."""
    opened: list[WatchedPage] = []

    def open_one(origin: str, **options: object) -> WatchedPage:
        opened.append(WatchedPage(browser, origin, **options))
        return opened[-1]

    yield open_one
    for page in opened:
        page.close()
    assert [fault for page in opened for fault in page.faults] == []


@pytest.fixture
def page(open_page: Open, gateway: RunningGateway) -> WatchedPage:
    return open_page(gateway.http_url)
