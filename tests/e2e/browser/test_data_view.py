"""Data: suspects with images, filters and orders, the histogram, classes, marks and their export."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from running import RunningGateway
from watched_page import Open, WatchedPage, until

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

DATA = "#/data?model=digits"


def rows(tab: Page) -> list[dict[str, str]]:
    """The rows in the document, from top to bottom."""
    expect(tab.locator(".example-row").first).to_be_visible()
    read = """rows => rows.map(row => ({
        place: row.ariaRowIndex, id: row.dataset.example, label: row.querySelector(".cell-label").innerText,
        said: row.querySelector(".cell-said").innerText, size: row.querySelector(".cell-size").innerText }))"""
    return sorted(tab.locator(".example-row").evaluate_all(read), key=lambda row: int(row["place"]))


def sizes(found: list[dict[str, str]]) -> list[float]:
    return [float(row["size"]) for row in found]


def fetched(tab: Page) -> Locator:
    """The line that says how many examples there are."""
    return tab.get_by_role("region", name="Training examples").get_by_role("status")


def total(tab: Page) -> int:
    status = fetched(tab)
    expect(status).to_have_text(re.compile(r"^[\d,]+ examples?"))
    return int(status.inner_text().split(" ")[0].replace(",", ""))


def test_suspects_come_first_with_image_given_and_suggested_label(page: WatchedPage) -> None:
    tab = page.open(DATA)
    expect(
        tab.get_by_text(re.compile(r"Of 1,437 training examples the model disagrees with the label of \d+"))
    ).to_be_visible()
    found = rows(tab)
    first = page.api("v1/models/digits/suspects?limit=1")["suspects"][0]
    assert found[0]["id"] == first["example_id"] and "suspect" in found[0]["said"]
    assert all(row["said"].split()[0] != row["label"] for row in found)
    assert sizes(found) == sorted(sizes(found), reverse=True)
    picture = tab.locator(".example-row img").first
    assert picture.get_attribute("src").startswith("blob:") and picture.evaluate("image => image.naturalWidth") == 8


def test_all_examples_can_be_shown_in_every_order(page: WatchedPage) -> None:
    tab = page.open(DATA)
    few = total(tab)
    tab.get_by_role("combobox", name="Show", exact=True).select_option("all examples")
    expect(fetched(tab)).to_contain_text("1,437 examples")
    assert few < 1437
    header = tab.get_by_role("columnheader", name="Self-influence", exact=True)
    expect(header).to_have_attribute("aria-sort", "descending")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    expect(tab.locator('[aria-rowindex="2"] .cell-size')).to_contain_text(re.compile("^0"))
    assert sizes(rows(tab)) == sorted(sizes(rows(tab)))
    tab.get_by_role("button", name="Example", exact=True).click()
    expect(tab.locator('[aria-rowindex="2"]')).to_have_attribute("data-example", "digits-0000")
    tab.get_by_role("button", name="Given label").click()
    expect(tab.locator('[aria-rowindex="2"] .cell-label')).to_have_text("0")
    assert "order=class" in tab.url


def test_filters_narrow_the_list_and_can_be_cleared(page: WatchedPage) -> None:
    tab = page.open(f"{DATA}&show=all")
    tab.get_by_label("Labelled").select_option("3")
    expect(tab.get_by_role("button", name="Take out 3")).to_be_visible()
    expect(fetched(tab)).to_contain_text("146 examples")
    tab.get_by_label("The model says").select_option("8")
    expect(tab.locator('[aria-rowindex="2"] .cell-said')).to_contain_text("8")
    assert {row["label"] for row in rows(tab)} == {"3"} and all("8" in row["said"] for row in rows(tab))
    tab.get_by_label("Self-influence from").fill("50")
    tab.get_by_label("Self-influence from").press("Enter")
    expect(tab).to_have_url(re.compile("least=50"))
    until(lambda: all(size >= 50 for size in sizes(rows(tab))))
    tab.get_by_role("button", name="Clear filters").click()
    expect(fetched(tab)).to_contain_text("1,437 examples")


def test_a_class_of_the_table_and_a_range_of_the_histogram_list_their_examples(page: WatchedPage) -> None:
    tab = page.open(DATA)
    summary = page.api("v1/models/digits/examples:summary")
    table = tab.get_by_role("region", name="Counts by class").get_by_role("row")
    expect(table).to_have_count(11)
    cells = table.nth(4).get_by_role("cell").all_inner_texts()
    third = summary["classes"][3]
    assert cells[0] == str(third["count"]) and str(third["disagreeing_count"]) in cells
    table.nth(4).get_by_role("button", name="3").click()
    expect(fetched(tab)).to_contain_text(f"{third['count']} examples")
    plot = tab.get_by_role("img", name=re.compile("^Histogram of self-influence"))
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=3)
    tab.mouse.up()
    expect(tab).to_have_url(re.compile(r"least=[\d.]+&most=[\d.]+"))
    least, most = (float(number) for number in re.search(r"least=([\d.]+)&most=([\d.]+)", tab.url).groups())
    assert least < most
    until(lambda: all(0.99 * least <= size <= 1.01 * most for size in sizes(rows(tab))))


def test_the_histogram_counts_every_example(page: WatchedPage) -> None:
    tab = page.open(DATA)
    tab.get_by_text("The figures").click()
    counts = tab.get_by_role("region", name="Histogram").locator("tbody tr td:last-child").all_inner_texts()
    assert sum(map(int, counts)) == 1437


def test_only_rows_in_sight_are_in_the_document_and_their_pictures_are_given_back(page: WatchedPage) -> None:
    page.tab.add_init_script("""
        window.open_blobs = new Set();
        const make = URL.createObjectURL, revoke = URL.revokeObjectURL;
        URL.createObjectURL = (blob) => { const url = make(blob); open_blobs.add(url); return url; };
        URL.revokeObjectURL = (url) => { open_blobs.delete(url); revoke(url); };""")
    tab = page.open(f"{DATA}&show=all")
    expect(tab.locator(".example-row").first).to_be_visible()
    body = tab.locator(".grid-body")
    for _ in range(40):
        body.evaluate("body => body.scrollTo(0, body.scrollHeight)")
        tab.wait_for_timeout(50)
        if tab.locator('[aria-rowindex="1438"]').count():
            break
    expect(tab.locator('[aria-rowindex="1438"]')).to_be_visible()
    assert fetched(tab).inner_text() == "1,437 examples"
    assert tab.locator(".example-row").count() < 60
    until(lambda: tab.evaluate("open_blobs.size <= document.images.length"))


def test_marks_are_exported_as_csv_and_as_a_command(page: WatchedPage) -> None:
    tab = page.open(DATA)
    chosen = [row["id"] for row in rows(tab)[:3]]
    for name in chosen:
        tab.get_by_role("checkbox", name=f"Mark {name}").check()
    marked = tab.get_by_role("group", name="Marked examples")
    expect(marked).to_contain_text("3 examples marked")
    command = marked.get_by_role("textbox").input_value()
    assert command == f"proponent forget --model digits -- {' '.join(chosen)}"
    with tab.expect_download() as download:
        marked.get_by_role("button", name="Download as CSV").click()
    content = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [line["example_id"] for line in content] == chosen
    assert all(line["class_id"] != line["predicted_class_id"] for line in content)
    marked.get_by_role("button", name="Unmark all").click()
    expect(marked).to_have_count(0)


def test_arrow_keys_walk_through_the_list(page: WatchedPage) -> None:
    tab = page.open(f"{DATA}&show=all")
    first = rows(tab)[0]["id"]
    tab.get_by_role("checkbox", name=f"Mark {first}").focus()
    focused = "() => document.activeElement.closest('[role=row]')?.ariaRowIndex"
    for row in range(3, 33):
        tab.keyboard.press("ArrowDown")
        until(lambda row=row: tab.evaluate(focused) == str(row))  # type: ignore[misc]
    tab.keyboard.press("Space")
    expect(tab.get_by_role("group", name="Marked examples")).to_contain_text("1 example marked")
    tab.keyboard.press("Home")
    expect(tab.get_by_role("checkbox", name=f"Mark {first}")).to_be_focused()


def test_frequent_examples_of_each_measure_stand_side_by_side(page: WatchedPage) -> None:
    tab = page.open(DATA)
    asked = page.api("v1/models/digits/frequentExamples?measure=influence&side=proponents&top_k=10&limit=10")
    for name in ("Influence (IF)", "θ-RelatIF", "l-RelatIF"):
        column = tab.get_by_role("region", name=name)
        expect(column.get_by_role("listitem")).to_have_count(10)
    column = tab.get_by_role("region", name="Influence (IF)")
    top = asked["examples"][0]
    expect(column.get_by_role("listitem").first).to_contain_text(top["example"]["example_id"])
    expect(column.get_by_role("listitem").first).to_contain_text(f"{top['count']} of {asked['lists']}")
    taken = sum(each["count"] for each in asked["examples"]) / asked["slots"]
    expect(column).to_contain_text(re.compile(f"{100 * taken:.1f}\\s% of all 2,000 places"))
    tab.get_by_role("combobox", name="Examples", exact=True).select_option("arguing against")
    tab.get_by_label("in lists of the first").select_option("5")
    expect(column).to_contain_text("of all 1,000 places")
    assert "side=opponents" in tab.url and "length=5" in tab.url


def test_a_link_reproduces_the_view(page: WatchedPage, open_page: Open, gateway: RunningGateway) -> None:
    address = (
        f"{DATA}&show=all&label=3&label=8&order=self-influence-ascending&least=1&mark=digits-0077&side=opponents"
    )
    tab = page.open(address)
    found = rows(tab)
    tab.reload()
    assert rows(tab) == found and {row["label"] for row in found} <= {"3", "8"}
    other = open_page(gateway.http_url).open(address)
    assert rows(other) == found
    expect(other.get_by_role("group", name="Marked examples").get_by_role("textbox")).to_have_value(
        re.compile("digits-0077$")
    )
