"""A report as its reader sees it: from the disk, without script, in both themes, narrow, enlarged and on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from watched_page import Open

import stores
from proponent.datasets import digits as data
from proponent.datasets.transforms import pixels
from proponent.display.page import png_size
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions, View
from proponent.results import Explanation

AXE = (Path(__file__).parents[2] / "vendor" / "axe.js").read_text(encoding="utf-8")
KINDS = ("report", "suspects", "audit")

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pages(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page of each kind, of the digits."""
    root, store = tmp_path_factory.mktemp("pages"), Store(digits / "store")
    (root / "in").mkdir()
    for number in range(3):
        data.test()[number][0].save(root / "in" / f"digit-{number}.png")
    for arguments in (
        ("report", "--inputs", root / "in", "--out", root / "report.html"),
        ("suspects", "--html", root / "suspects.html"),
        ("audit", "--queries", "20", "--quiet", "--html", root / "audit.html"),
    ):
        done = stores.run(*arguments, store=store)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def pictures(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Where pictures are kept: among the documentation's, where it is asked for."""
    return Path(pytestconfig.getoption("--screenshots", default=None) or tmp_path) / "reports"


def opened(open_page: Open, pages: Path, kind: str, **options: Any) -> Page:
    return open_page("file://", **options).open(f"{pages}/{kind}.html".removeprefix("/"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing_serious(open_page: Open, pages: Path, kind: str, theme: str) -> None:
    tab = opened(open_page, pages, kind, color_scheme=theme)
    tab.evaluate(AXE)
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_on_a_narrow_page_without_script(open_page: Open, pages: Path, kind: str) -> None:
    """360 pixels are also what is left of 1,440 at 400 %."""
    tab = opened(open_page, pages, kind, viewport={"width": 360, "height": 640}, java_script_enabled=False)
    assert tab.locator("h1").is_visible() and tab.locator("svg.plot, .facts").first.is_visible()
    overflow = tab.locator("body").evaluate("body => body.ownerDocument.documentElement.scrollWidth")
    assert overflow <= 360
    ids = tab.locator(".id").evaluate_all("all => all.map(one => one.getBoundingClientRect())")
    assert all(box["width"] > 90 and box["height"] < 160 for box in ids)


def test_pictures_bars_and_themes_are_drawn(open_page: Open, pages: Path) -> None:
    tab = opened(open_page, pages, "report", color_scheme="dark")
    sizes = tab.locator(".column svg.thumb").evaluate_all(
        "all => all.map(one => one.firstElementChild.getBBox().width)"
    )
    assert len(sizes) == 3 * 4 * 2 * 5 and set(sizes) == {8}
    widths = tab.locator(".for .plus").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert max(widths) > 20 and all(width > 0 for width in widths)
    assert tab.locator(".against .plus").count() == tab.locator(".for .minus").count() == 0
    ground = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(ground) == "rgb(19, 21, 24)"
    tab.emulate_media(color_scheme="light")
    assert tab.evaluate(ground) == "rgb(247, 247, 245)"
    bar = tab.locator("svg.plot path").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert "rgb(67, 134, 221)" in bar


def test_a_report_prints(open_page: Open, pages: Path) -> None:
    tab = opened(open_page, pages, "report", color_scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(26, 28, 32)"
    assert not tab.locator("nav").is_visible() and tab.locator("table.for").first.is_visible()
    assert len(tab.pdf()) > 20_000


def test_links_of_the_contents_lead_to_the_answers(open_page: Open, pages: Path) -> None:
    tab = opened(open_page, pages, "report")
    tab.keyboard.press("Tab")
    assert (
        json.loads(tab.evaluate("JSON.stringify(document.activeElement.textContent)")) == "Skip to the explanations"
    )
    tab.locator(".contents a").nth(2).press("Enter")
    assert (
        tab.url.endswith("#input-3")
        and tab.locator("#input-3").evaluate("one => one.getBoundingClientRect().top") < 50
    )


def picture(folder: Path, name: str, tab: Page, height: int) -> None:
    """The beginning of a page, as the documentation shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=folder / f"{name}.png", clip={"x": 0, "y": 0, "width": 1280, "height": height})


def test_takes_pictures(open_page: Open, pages: Path, pictures: Path, digits: Path) -> None:
    """Of a report, and of what an explanation shows of itself in a notebook."""
    picture(pictures, "report", opened(open_page, pages, "report", viewport={"width": 1280, "height": 900}), 900)
    explainer = Explainer.load(Store(digits / "store").current("digits"))
    [found] = explainer.explain([pixels(data.test()[0][0])], [ExplainOptions(top_k=3, view=View.THUMBNAIL)])
    assert isinstance(found, Explanation)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><body style="margin:1rem">'
    (pages / "notebook.html").write_text(f"{head}{found._repr_html_()}</body></html>", encoding="utf-8")
    picture(pictures, "notebook", opened(open_page, pages, "notebook", viewport={"width": 1280, "height": 620}), 620)
    found.plot().savefig(pictures / "plot.png", dpi=90)
    for name in ("report", "notebook", "plot"):
        assert png_size((pictures / f"{name}.png").read_bytes())[0] > 900
