"""The page as a whole: it stays at home, is light, keeps the console empty; its watcher sees what it is there for."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect
from running import RunningGateway
from watched_page import Open, WatchedPage

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

VIEWS = {"Explain": "explain", "What if": "whatif", "Data": "data", "Model": "model"}
SCRIPT_BYTES = 50_000
"""As they are sent, compressed, with those that the first explanation brings."""


def test_the_first_view_is_light(page: WatchedPage) -> None:
    sizes: dict[str, int] = {}
    page.tab.on("requestfinished", lambda done: sizes.__setitem__(done.url, done.sizes()["responseBodySize"]))
    tab = page.open()
    expect(tab.locator(".example img").first).to_be_visible()
    expect(tab.get_by_text("The scores use")).to_be_attached()  # the last part of the view
    scripts = {url: size for url, size in sizes.items() if url.endswith(".js")}
    assert any(url.endswith("/preact.js") for url in scripts) and 0 < sum(scripts.values()) < SCRIPT_BYTES, scripts


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_is_a_tab_with_an_address_and_a_title(page: WatchedPage, name: str) -> None:
    tab = page.open()
    tab.get_by_role("link", name=name, exact=True).click()
    expect(tab.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
    expect(tab).to_have_title(f"{name} · proponent")
    assert f"#/{VIEWS[name]}?model=digits" in tab.url


def test_back_and_forward_follow_the_views(page: WatchedPage) -> None:
    tab = page.open("#/model?model=digits")
    tab.get_by_role("link", name="Data").click()
    expect(tab).to_have_title("Data · proponent")
    tab.go_back()
    expect(tab).to_have_title("Model · proponent")
    tab.go_forward()
    expect(tab).to_have_title("Data · proponent")


def test_a_view_that_is_none_says_so(page: WatchedPage) -> None:
    expect(page.open("#/nonsense").get_by_role("heading", name="There is no view “nonsense”")).to_be_visible()


def test_colours_follow_the_system_until_they_are_chosen(open_page: Open, gateway: RunningGateway) -> None:
    tab = open_page(gateway.http_url, color_scheme="dark").open()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(ground)
    tab.get_by_role("button", name="Colours: system").click()
    expect(tab.locator("body")).not_to_have_css("background-color", dark)
    light = tab.evaluate(ground)
    tab.reload()
    expect(tab.get_by_role("button", name="Colours: light")).to_be_visible()
    expect(tab.locator("body")).to_have_css("background-color", light)


def test_without_script_the_page_says_what_it_needs(open_page: Open, gateway: RunningGateway) -> None:
    tab = open_page(gateway.http_url, java_script_enabled=False).open()
    assert "needs JavaScript" in tab.inner_text("noscript")


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
def test_the_watcher_sees_faults(gateway: RunningGateway, browser: Browser, script: str, fault: str) -> None:
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
