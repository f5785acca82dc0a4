"""The page as a whole: it stays at home, keeps the console empty, and its watcher does see what it is there for."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect
from running import RunningGateway
from watched_page import WatchedPage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


def test_opens(page: WatchedPage) -> None:
    expect(page.open().get_by_role("heading", level=1)).to_be_visible()
    assert page.requested


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("console.warn('careful')", "warning: careful"),
        ("setTimeout(() => { throw new Error('broken') })", "error: broken"),
        ("fetch('https://example.org/').catch(() => {})", "Content Security Policy"),
        ("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:1/x.png'}))", "Content Security"),
        ("document.body.setAttribute('style', 'color: red')", "Content Security Policy"),
        ("fetch('v1/models/nothing')", "status of 404"),
    ],
)
def test_the_watcher_sees_what_must_not_be(
    gateway: RunningGateway, browser: Browser, script: str, fault: str
) -> None:
    page = WatchedPage(browser, gateway.http_url)
    tab = page.open()
    assert page.faults == []
    tab.evaluate(f"() => {{ {script} }}")
    tab.wait_for_timeout(200)
    page.close()
    assert any(fault in seen for seen in page.faults), page.faults


def test_the_watcher_sees_requests_to_elsewhere(gateway: RunningGateway, browser: Browser) -> None:
    page = WatchedPage(browser, gateway.http_url, bypass_csp=True)
    page.may_lose_connection = True
    page.open().evaluate("() => fetch('http://127.0.0.1:1/').catch(() => {})")
    page.close()
    assert "request to http://127.0.0.1:1/" in page.faults
