"""The pictures of README and docs: each view as people see it. ``scripts/screenshots`` keeps them in docs/images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from running import RunningGateway
from watched_page import Open

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
SIZE = {"width": 1280, "height": 1080}
COLOURS = 256
MOST_BYTES = 200_000


def explain(tab: Page) -> None:
    expect(tab.locator(".sentence")).to_contain_text("instead of")
    tab.get_by_role("region", name="l-RelatIF").locator(".example").first.hover()


def whatif(tab: Page) -> None:
    tab.locator(".column").first.locator(".example").first.wait_for()
    for place in range(3):
        tab.locator(".column").first.get_by_role("checkbox").nth(place).check()
    tab.get_by_role("link", name="What if they were gone?").click()
    expect(tab.get_by_role("heading", name=re.compile("^Without the 3 marked"))).to_be_visible()
    tab.get_by_role("button", name="Look for the smallest set").click()
    expect(tab.locator(".flip .example").first).to_be_visible()


def data(tab: Page) -> None:
    expect(tab.locator(".example-row").nth(8)).to_be_visible()


def frequent(tab: Page) -> None:
    expect(tab.get_by_role("region", name="l-RelatIF").get_by_role("listitem").first).to_be_visible()
    tab.get_by_role("heading", name="Examples that stand in most lists").evaluate(TO_TOP)


def model(tab: Page) -> None:
    expect(tab.get_by_role("region", name="Bundles", exact=True)).to_be_visible()


def diff(tab: Page) -> None:
    expect(tab.get_by_text("Samples whose reasons changed most")).to_be_visible()
    tab.get_by_role("heading", name="Bundles in the store").evaluate(TO_TOP)


TO_TOP = "heading => window.scrollTo(0, window.scrollY + heading.getBoundingClientRect().top - 24)"
VIEWS = {
    "explain": ("#/explain?k=4", explain),
    "explain-dark": ("#/explain?k=4", explain),
    "whatif": ("", whatif),
    "data": ("#/data?model=digits", data),
    "frequent": ("#/data?model=digits", frequent),
    "model": ("#/model?model=digits", model),
    "diff": ("#/model?model=digits", diff),
}


@pytest.mark.parametrize("name", VIEWS)
def test_takes_a_picture(
    open_page: Open, gateway: RunningGateway, pytestconfig: pytest.Config, tmp_path: Path, name: str
) -> None:
    scheme = "dark" if name.endswith("dark") else "light"
    page = open_page(gateway.http_url, viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
    address, prepare = VIEWS[name]
    tab = page.open(address)
    prepare(tab)
    expect(tab.locator(".loading, .pending")).to_have_count(0)
    folder = pytestconfig.getoption("--screenshots") or tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    tab.screenshot(path=file)
    with Image.open(file) as picture:
        assert picture.size == (SIZE["width"], SIZE["height"])
        picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    assert file.stat().st_size < MOST_BYTES


def test_pictures_of_the_docs_are_those_of_the_tests() -> None:
    kept = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "images").glob("*.png")}
    assert kept.keys() == VIEWS.keys() and max(kept.values()) < MOST_BYTES
