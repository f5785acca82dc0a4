"""What if: the predicted change without marked examples, and the smallest set that flips the label."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from test_explain_view import encoded, explained
from watched_page import WatchedPage

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]


def probability(tab: Page, name: str) -> Locator:
    return tab.locator(".probability").filter(has=tab.locator(".name", has_text=re.compile(f"^{name}$")))


def test_what_is_marked_in_the_lists_is_removed_here(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    column = tab.get_by_role("region", name="Influence (IF)")
    marks = column.locator("[data-example]").evaluate_all("rows => rows.slice(0, 3).map(row => row.dataset.example)")
    for name in marks:
        column.get_by_role("checkbox", name=f"Mark {name}").check()
    tab.get_by_role("link", name="What if they were gone?").click()
    expect(
        tab.get_by_role("heading", name=re.compile("^Without the 3 marked examples, the model would be"))
    ).to_be_visible()
    body = {"query": {"image": encoded(image)}, "example_ids": marks}
    reply = page.post("v1/models/digits:estimateRemoval", body)
    expect(probability(tab, "3")).to_contain_text(f"{100 * reply['probabilities_after'][3]:.1f}")
    for name in ("One Newton step", "Influence ÷ N"):
        tab.get_by_role("radio", name=re.compile(f"^{name}")).check()
    body["estimator"] = "ESTIMATOR_INFLUENCE_SUM"
    after = page.post("v1/models/digits:estimateRemoval", body)["probabilities_after"]
    expect(tab.locator(".said")).to_contain_text(re.compile(f"{100 * after[3]:.1f}\\s%"))
    marked = tab.get_by_role("region", name="Marked examples")
    expect(marked.get_by_role("listitem")).to_have_count(3)
    marked.get_by_role("checkbox", name=f"Mark {marks[0]}").uncheck()
    expect(tab.get_by_role("heading", name=re.compile("^Without the 2 marked examples"))).to_be_visible()
    command = f"proponent forget --model digits -- {marks[1]} {marks[2]}"
    expect(marked.locator("input.mono")).to_have_value(command)


def test_four_clicks_lead_from_the_bare_address_to_what_if(page: WatchedPage) -> None:
    """Why this digit, and what if those three examples were gone?"""
    tab = page.open()
    column = tab.get_by_role("region", name="Influence (IF)")
    expect(tab.locator(".sentence")).to_contain_text("argued for")
    for place in range(3):
        column.get_by_role("checkbox").nth(place).click()
    tab.get_by_role("link", name="What if they were gone?").click()
    expect(tab.get_by_role("heading", name=re.compile("^Without the 3 marked examples"))).to_be_visible()


def test_the_smallest_set_is_looked_for_and_can_be_marked(page: WatchedPage, image: str) -> None:
    tab = page.open(f"#/whatif?model=digits&image={image}")
    expect(tab.get_by_role("heading", name="Nothing is marked yet")).to_be_visible()
    flip = tab.get_by_role("region", name="Smallest set that flips the label")
    flip.get_by_role("button", name="Look for the smallest set").click()
    reply = page.post("v1/models/digits:findFlipSet", {"query": {"image": encoded(image)}})
    members = [each["example_id"] for each in reply["members"]]
    assert members
    label = reply["flipped_class_id"]
    expect(flip.get_by_role("heading", name=re.compile(f"the model would say {label}"))).to_be_visible()
    flip.get_by_role("button", name="Mark all of them").click()
    expect(tab.get_by_role("heading", name=f"{len(members)} marked examples", exact=True)).to_be_visible()
    tab.reload()
    expect(flip.get_by_role("heading", name=re.compile(f"the model would say {label}"))).to_be_visible()
    expect(tab.get_by_role("heading", name=f"{len(members)} marked examples", exact=True)).to_be_visible()


def test_without_an_input_it_says_what_it_is_for(page: WatchedPage) -> None:
    expect(
        page.open("#/whatif?model=digits").get_by_role("heading", name="What if some training examples were gone?")
    ).to_be_visible()
