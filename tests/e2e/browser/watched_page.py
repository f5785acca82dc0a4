"""A page that notes everything a careful user would complain about: messages, errors, requests to elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import APIResponse, Browser, ConsoleMessage, Page, Request

_BENIGN = ("log", "debug", "info")


class WatchedPage:
    """A tab in a context of its own; ``faults`` must be empty at the end of a test.

    Args:
        browser: Where the context is opened.
        origin: The gateway, e.g. ``http://127.0.0.1:8080``; requests to any other host are faults.
        options: Of the context (viewport, color_scheme, bypass_csp, ...).
    """

    def __init__(self, browser: Browser, origin: str, **options: Any) -> None:
        self.origin = origin
        self.faults: list[str] = []
        self.requested: list[str] = []
        self.allowed_statuses: set[int] = set()
        """Replies that a test provokes; Chromium itself writes a line about each to the console."""
        self.may_lose_connection = False
        self._context = browser.new_context(**options)
        self.tab: Page = self._context.new_page()
        self.tab.set_default_timeout(20_000)
        self.tab.on("console", self._on_console)
        self.tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.tab.on("request", self._on_request)

    def open(self, address: str = "") -> Page:
        """Loads the page at an address below the origin, e.g. ``#/data?order=class``."""
        self.tab.goto(f"{self.origin}/{address}")
        return self.tab

    def api(self, path: str) -> Any:
        """What the service itself answers, asked beside the page."""
        return _content(self._context.request.get(f"{self.origin}/{path}"))

    def post(self, path: str, body: Any) -> Any:
        """The same of a call with a body."""
        return _content(self._context.request.post(f"{self.origin}/{path}", data=body))

    def close(self) -> None:
        self._context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type not in _BENIGN and not self._provoked(message.text):
            self.faults.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _provoked(self, text: str) -> bool:
        if not text.startswith("Failed to load resource: "):
            return False
        lost = self.may_lose_connection and "net::ERR_" in text
        return lost or any(f"status of {status} " in text for status in self.allowed_statuses)

    def _on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        self.requested.append(request.url)
        if url.scheme not in ("blob", "data") and f"{url.scheme}://{url.netloc}" != self.origin:
            self.faults.append(f"request to {request.url}")


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Waits for something that the page comes to."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def _content(reply: APIResponse) -> Any:
    assert reply.ok, reply.text()
    return reply.json()


Open = Callable[..., WatchedPage]
"""Opens pages of an origin; keywords go to the context."""
