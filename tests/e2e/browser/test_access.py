"""For everybody: no violation that axe-core finds, every size of window and of text, both themes, keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from test_explain_view import SENTENCE
from watched_page import WatchedPage

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

AXE = (Path(__file__).parents[2] / "vendor" / "axe.js").read_text(encoding="utf-8")
MARKS = "&mark=digits-0226&mark=digits-1605"
VIEWS = {
    "explain": ("#/explain?model=digits&image={image}" + MARKS, SENTENCE),
    "whatif": ("#/whatif?model=digits&image={image}&flip=1" + MARKS, "How few would have to go for another answer?"),
    "data": ("#/data?model=digits&show=all" + MARKS, "Classes"),
    "model": ("#/model?model=digits", re.compile("^Over 200 held-out samples|Bundles in the store")),
    "problem": ("#/explain?model=nothing", "Not found"),
}
SIZES = {"360 pixels": (360, 740), "400 % zoom": (320, 256), "wide": (1920, 1080)}


def shown(page: WatchedPage, view: str, image: str) -> Page:
    """The view once all of it is there, with everything unfolded."""
    address, heading = VIEWS[view]
    page.allowed_statuses.add(404)
    tab = page.open(address.format(image=image))
    expect(tab.get_by_role("heading", name=heading).first).to_be_visible()
    expect(tab.locator(".loading")).to_have_count(0)
    tab.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
    return tab


def violations(tab: Page) -> list[str]:
    """What axe-core finds, with the first element that it finds it on."""
    tab.evaluate(AXE)
    found = tab.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [f"{each['impact']} {each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_in_either_theme(page: WatchedPage, image: str, view: str) -> None:
    tab = shown(page, view, image)
    found = {}
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found[scheme] = violations(tab)
    assert found == {"light": [], "dark": []}


def test_axe_would_find_something(page: WatchedPage, image: str) -> None:
    tab = shown(page, "problem", image)
    tab.evaluate("document.querySelector('main').append(document.createElement('select'))")
    assert any(found.startswith("critical select-name") for found in violations(tab))


OUTSIDE = """width => [...document.querySelectorAll("button, input, select, a, h1, h2, h3, p")].filter(element => {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    const scrolls = element.closest(".scroll, .grid-body, .visually-hidden, .skip, .named");
    const seen = style.visibility !== "hidden" && box.width > 1;
    return !scrolls && seen && (box.right > width + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off_at_any_size(page: WatchedPage, image: str, view: str) -> None:
    tab = shown(page, view, image)
    found = {}
    for name, (width, height) in SIZES.items():
        tab.set_viewport_size({"width": width, "height": height})
        tab.wait_for_timeout(100)
        found[name] = (tab.evaluate("document.scrollingElement.scrollWidth") <= width, tab.evaluate(OUTSIDE, width))
    assert found == dict.fromkeys(SIZES, (True, []))


def focused(tab: Page) -> str:
    """The tag and the accessible name of what has the focus."""
    described = """() => { if (document.activeElement === document.body) return "";
        const element = document.activeElement, label = element.labels?.[0]?.innerText;
        return `${element.tagName} ${element.getAttribute("aria-label") || label || element.innerText || ""}`; }"""
    return str(tab.evaluate(described)).strip()


def walk(tab: Page, to: str, most: int = 150) -> None:
    """Presses Tab until something whose description matches has the focus, which must be seen."""
    for _ in range(most):
        tab.keyboard.press("Tab")
        if re.search(to, focused(tab)):
            ring = "() => getComputedStyle(document.activeElement).outlineStyle"
            assert tab.evaluate(ring) != "none", f"{to}: the focus is not seen"
            return
    raise AssertionError(f"no way to {to} by the keyboard; last at {focused(tab)}")


def test_the_keyboard_alone_leads_from_a_sample_to_what_if(page: WatchedPage) -> None:
    tab = page.open()
    expect(tab.get_by_role("button", name=re.compile("^Sample of")).first).to_be_visible()
    walk(tab, "Skip to the content")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    walk(tab, "^BUTTON Sample of")
    tab.keyboard.press("Enter")
    expect(tab.locator(".example").first).to_be_visible()
    for _ in range(3):
        walk(tab, "^INPUT Mark ")
        tab.keyboard.press("Space")
    walk(tab, "What if they were gone", most=300)
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name=re.compile("^Without the 3 marked examples"))).to_be_visible()
    walk(tab, "Look for the smallest set")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name=re.compile("No flip found|the model would say")).last).to_be_visible()


def test_the_keyboard_alone_reaches_every_control_of_explain(page: WatchedPage, image: str) -> None:
    tab = shown(page, "explain", image)
    for name in ("Choose a picture", "Examples in each list", "Why", "rather than", "Only examples", "None labelled"):
        walk(tab, name)
    for name in ("diverse means", "how much", "gamma", "^INPUT Mark", "^SUMMARY", "What if they", "Unmark all"):
        walk(tab, name)


def test_the_keyboard_alone_works_data(page: WatchedPage) -> None:
    tab = page.open("#/data?model=digits")
    expect(tab.locator(".example-row").first).to_be_visible()
    walk(tab, "^BUTTON 3$")
    tab.keyboard.press("Enter")
    walk(tab, "Show")
    walk(tab, "Self-influence from")
    tab.keyboard.type("5")
    walk(tab, "^BUTTON Given label")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("columnheader", name="Given label")).to_have_attribute("aria-sort", "ascending")
    expect(tab.locator(".example-row").first).to_be_visible()
    walk(tab, "^INPUT Mark ")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowDown")
    expect(tab.locator('[aria-rowindex="3"] input')).to_be_focused()
    tab.keyboard.press("Space")
    expect(tab.get_by_role("group", name="Marked examples")).to_contain_text("2 examples marked")
    walk(tab, "Download as CSV")
    walk(tab, "in lists of the first")


def test_the_keyboard_alone_works_model(page: WatchedPage) -> None:
    tab = page.open("#/model?model=digits")
    expect(tab.get_by_role("region", name="Bundles", exact=True)).to_be_visible()
    walk(tab, "Colours: system")
    tab.keyboard.press("Enter")
    walk(tab, "^SUMMARY")
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("Weights (SHA-256)")).to_be_visible()
    walk(tab, "Bundles")
    walk(tab, "Measure")
    tab.keyboard.press("ArrowDown")
    expect(tab).to_have_url(re.compile("measure=theta-relatif"))
