"""The page on models of texts and of rows: their inputs, what training examples say, and that nothing of it acts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, Route, expect
from running import RunningGateway
from watched_page import Open

import wordy
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

ROW = {"job": "nurse", "age": 30, "smokes": True, "note": "none"}


@pytest.fixture(scope="module")
def words(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that serves a model of texts and one of rows, with two bundles of the first."""
    root = tmp_path_factory.mktemp("words")
    store = Store(root / "store")
    for name, damping in ((wordy.TEXT, 0.02), (wordy.TEXT, 0.01), (wordy.RECORD, 0.01)):
        spec = load_spec(
            wordy.project(root / f"{name}-{damping}", name, curvature={"kind": "exact", "damping": damping})
        )
        rebuild(spec, store, RebuildOptions(quiet=True))
    allowed = ("--allow-examples", "--allow-thumbnails", "--allow-samples", "--worker-host", "processes")
    running = RunningGateway(store.root, root / "gateway.log", *allowed)
    try:
        running.wait_ready()
        yield running
        running.stop()
    finally:
        running.close()


@pytest.fixture
def tab(open_page: Open, words: RunningGateway) -> Iterator[Page]:
    page = open_page(words.http_url)
    page.tab.goto(f"{words.http_url}/#/model?model={wordy.TEXT}")
    yield page.tab
    assert page.tab.title() != "acted"


def go(tab: Page, view: str, model: str, **params: str) -> None:
    tab.evaluate("([hash]) => { location.hash = hash }", [f"#/{view}?" + _query(model=model, **params)])


def _query(**params: str) -> str:
    return urlencode(params)


def test_a_text_is_written_and_explained_by_texts(tab: Page) -> None:
    go(tab, "explain", wordy.TEXT, k="24")
    expect(tab.get_by_label("Text", exact=True)).to_have_value("a bad film , number 24")  # the first sample
    tab.get_by_label("Text", exact=True).fill("a good film <b>indeed</b>")
    tab.get_by_role("button", name="Explain this text").click()
    column = tab.get_by_role("region", name="Influence (IF)")
    expect(column.locator("p.words").first).to_be_visible()
    seen = column.locator("p.words").all_inner_texts()
    assert wordy.NASTY[0] in seen and wordy.NASTY[4] in seen
    assert any("\\u{202e}" in text and "\\u{1b}" in text for text in seen)
    expect(tab.locator("main img, main script, main b")).to_have_count(0)
    assert "text=a+good+film" in tab.url
    tab.reload()
    expect(tab.get_by_label("Text", exact=True)).to_have_value("a good film <b>indeed</b>")


def test_words_that_carry_it_are_marked_in_both_texts(tab: Page) -> None:
    go(tab, "explain", wordy.TEXT, text="a good 🎬 film , not bad", k="24")
    column = tab.get_by_role("region", name="Influence (IF)")
    expect(column.locator("p.words").first).to_be_visible()
    tab.get_by_label("Mark the words that carry it").check()
    own = tab.get_by_role("region", name="Words").locator(".words")
    expect(own.locator("p.text")).to_have_text("a good 🎬 film , not bad")
    expect(own.locator("mark.plus.step4")).to_have_text("good")
    expect(own).to_contain_text("Carried by “good” +")
    nasty = column.locator(".example", has_text="<img src=x").locator(".words")
    expect(nasty.locator("p.text")).to_have_text(wordy.NASTY[0])
    expect(nasty.locator("mark", has_text="good")).to_have_count(1)
    expect(tab.locator("main img, main script, main b")).to_have_count(0)
    assert "words=yes" in tab.url
    tab.reload()
    expect(own.locator("mark.plus.step4")).to_have_text("good")
    tab.get_by_label("Mark the words that carry it").uncheck()
    expect(tab.locator("main mark")).to_have_count(0)
    expect(column.locator("p.words").first).to_be_visible()


def test_who_is_writing_is_not_interrupted_by_the_first_sample(tab: Page) -> None:
    held: list[Route] = []
    tab.route(re.compile(r"/samples\?"), lambda route: held.append(route))
    go(tab, "explain", wordy.TEXT)
    tab.get_by_label("Text", exact=True).fill("my own words")
    with tab.expect_response(re.compile(r"/samples\?")):
        for route in held:
            route.continue_()
    expect(tab.locator(".samples .sample").first).to_be_visible()
    expect(tab.get_by_label("Text", exact=True)).to_have_value("my own words")
    assert "sample=" not in tab.url
    tab.locator(".samples .sample").nth(1).click()
    expect(tab.get_by_label("Text", exact=True)).to_have_value("a fine story , number 25")


def test_another_model_begins_with_a_sample_of_its_own(tab: Page) -> None:
    go(tab, "explain", wordy.TEXT)
    expect(tab.get_by_label("Text", exact=True)).to_have_value("a bad film , number 24")
    go(tab, "explain", wordy.RECORD)
    expect(tab.get_by_role("region", name="Influence (IF)")).to_be_visible()
    expect(tab.get_by_text("Not found")).to_have_count(0)


def test_samples_of_texts_are_read_and_chosen(tab: Page) -> None:
    go(tab, "explain", wordy.TEXT)
    sample = tab.locator(".samples .sample").nth(1)
    expect(sample).to_contain_text("number 25")
    sample.click()
    expect(tab.get_by_label("Text", exact=True)).to_have_value("a fine story , number 25")
    expect(tab.locator("p.words").first).to_be_visible()


def test_a_row_is_filled_in_and_what_differs_is_marked(tab: Page) -> None:
    go(tab, "explain", wordy.RECORD, k="24", record=json.dumps(ROW))
    expect(tab.get_by_label("job")).to_have_value("2")
    expect(tab.get_by_label("age")).to_have_value("30")
    column = tab.get_by_role("region", name="Influence (IF)")
    other = column.locator(".example", has_text="cook").first
    expect(other.locator(".changed", has_text="job")).to_contain_text("cook not nurse")
    same = column.locator(".example", has=tab.locator("dd", has_text="nurse")).first
    expect(same.locator("div:not(.changed) > dt", has_text="job")).to_have_count(1)
    expect(column.locator(".changed", has_text="missing").first).to_contain_text("not 30")
    tab.get_by_label("job").select_option(label="cook")
    tab.get_by_label("age").fill("")
    tab.get_by_role("button", name="Explain this row").click()
    expect(column.locator(".example", has_text="cook").first.locator(".changed", has_text="job")).to_have_count(0)
    asked = json.loads(tab.evaluate("new URLSearchParams(location.hash.split('?')[1]).get('record')"))
    assert asked == {**ROW, "job": "cook", "age": None}


def test_a_row_that_the_model_does_not_take_names_the_column(
    tab: Page, open_page: Open, words: RunningGateway
) -> None:
    page = open_page(words.http_url)
    page.allowed_statuses = {400}
    page.open(f"#/explain?{_query(model=wordy.RECORD, record=json.dumps({**ROW, 'age': 'old'}))}")
    expect(page.tab.get_by_role("alert").first).to_contain_text("record.age")
    expect(page.tab.get_by_label("age")).to_have_attribute("placeholder", "old (unknown to the model)")


@pytest.mark.parametrize("view", ["explain", "whatif"])
def test_a_category_that_the_model_does_not_know_is_marked_as_such(
    view: str, tab: Page, open_page: Open, words: RunningGateway
) -> None:
    page = open_page(words.http_url)
    page.allowed_statuses = {400}
    asked = _query(model=wordy.RECORD, record=json.dumps({**ROW, "job": "pilot"}), mark="person/0")
    page.open(f"#/{view}?{asked}")
    job = page.tab.get_by_label("job")
    expect(job.locator("option:checked")).to_have_text("pilot (unknown to the model)")
    expect(job).to_have_attribute("aria-invalid", "true")
    expect(page.tab.get_by_role("alert").first).to_contain_text("record.job")
    job.select_option(label="cook")
    page.tab.get_by_role("button", name="Explain this row").click()
    expect(page.tab.get_by_role("alert")).to_have_count(0)
    expect(job.locator("option")).to_have_text(["choose …", "clerk", "cook", "nurse"])


def test_what_if_shows_marked_texts(tab: Page) -> None:
    go(tab, "whatif", wordy.TEXT, text="a good film", mark="opinion/0")
    expect(tab.get_by_role("heading", name="Without the marked example")).to_be_visible()
    expect(tab.locator(".named p.words")).to_have_text(wordy.NASTY[0])


def test_a_view_that_was_left_before_it_had_come_takes_nothing_from_the_next(
    open_page: Open, words: RunningGateway
) -> None:
    tab, held = open_page(words.http_url).tab, list[Route]()
    tab.route("**/views/model.js", lambda route: held.append(route))
    with tab.expect_request("**/views/model.js"):
        tab.goto(f"{words.http_url}/#/model?model={wordy.TEXT}")
    go(tab, "whatif", wordy.TEXT)
    expect(tab.get_by_role("heading", name="What if some training examples were gone?")).to_be_visible()
    with tab.expect_response("**/views/model.js"):
        held[0].continue_()
    tab.evaluate("import('./explorer/views/model.js')")
    expect(tab.get_by_role("heading", name="What if some training examples were gone?")).to_be_visible()


def test_the_data_page_lists_texts_and_rows(tab: Page) -> None:
    go(tab, "data", wordy.TEXT, order="example-id", show="all")
    expect(tab.locator(".example-row .summary", has_text="<img src=x").first).to_be_visible()
    expect(tab.locator("main img")).to_have_count(0)
    go(tab, "data", wordy.RECORD, show="all")
    expect(tab.locator(".example-row .summary", has_text="age missing").first).to_be_visible()


def test_a_difference_of_bundles_shows_its_samples(tab: Page) -> None:
    go(tab, "model", wordy.TEXT)
    expect(tab.get_by_text("inputs are texts")).to_be_visible()
    tab.locator(".compared details summary").first.click()
    expect(tab.locator(".compared p.words").first).to_contain_text("number")
