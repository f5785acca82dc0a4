"""Every state in which the page has nothing to show is told as what it is, and ends by itself where it can.

One gateway that asks for tokens is opened before it is ready, publishes another bundle, and goes away at the end.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from running import RunningGateway, cli
from watched_page import Open, WatchedPage, until

from proponent.gateway.auth.token_file import new_token, token_line
from proponent.index.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

CALLERS = {
    "all": {"scopes": "explain,examples", "level": "full"},
    "explain": {"scopes": "explain", "level": "full"},
    "labels": {"scopes": "explain,examples", "level": "labels"},
    "ranks": {"scopes": "explain,examples", "level": "ranks"},
    "rounded": {"scopes": "explain,examples", "level": "rounded"},
    "predict": {"scopes": "predict", "level": "full"},
}
TOKENS = {name: new_token() for name in CALLERS}


@pytest.fixture(scope="module")
def guarded(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that has just been started, on a store of its own."""
    root = tmp_path_factory.mktemp("guarded")
    shutil.copytree(store.directory("digits"), root / "store" / "digits")
    tokens = root / "tokens"
    lines = [token_line(TOKENS[name], name, of["scopes"], {"level": of["level"]}) for name, of in CALLERS.items()]
    tokens.write_text("\n".join(lines))
    options = ("--allow-examples", "--allow-thumbnails", "--allow-samples", "--tokens-file", str(tokens))
    running = RunningGateway(root / "store", root / "gateway.log", *options)
    try:
        running.wait_for(lambda: running.get("/healthz") is not None)
        yield running
    finally:
        running.close()


def problem(tab: Page, kind: str) -> None:
    expect(tab.locator(f'.problem[data-kind="{kind}"]').first).to_be_visible()


def enter(tab: Page, token: str) -> None:
    field = tab.get_by_label("Token", exact=True).last
    field.fill(token)
    field.press("Enter")


def opened(open_page: Open, gateway: RunningGateway, address: str, token: str, *statuses: int) -> WatchedPage:
    """A page whose token was entered before."""
    page = open_page(gateway.http_url)
    page.allowed_statuses |= set(statuses)
    page.tab.add_init_script(f"sessionStorage.setItem('proponent.token', '{TOKENS[token]}')")
    page.open(address)
    return page


def test_asks_for_a_token_then_waits_until_the_model_is_ready(
    open_page: Open, guarded: RunningGateway, image: str
) -> None:
    page = open_page(guarded.http_url)
    page.allowed_statuses |= {401, 503}
    tab = page.open(f"#/explain?model=digits&image={image}")
    expect(tab.get_by_role("heading", name="This service asks for a token")).to_be_visible()
    enter(tab, "wrong")
    expect(tab.get_by_role("heading", name="This service asks for a token")).to_be_visible()
    enter(tab, TOKENS["explain"])
    problem(tab, "not_ready")
    expect(tab.get_by_text(re.compile(r"by itself in \d+ s|trying now")).first).to_be_visible()
    expect(tab.get_by_role("heading", name=re.compile("argued for 3"))).to_be_visible(timeout=240_000)
    assert tab.evaluate("Object.keys(localStorage).every(key => !localStorage[key].includes('pt_'))")


def test_a_token_without_a_scope_is_told_what_is_not_permitted(open_page: Open, guarded: RunningGateway) -> None:
    guarded.wait_ready()
    tab = opened(open_page, guarded, "#/data?model=digits", "predict", 403).tab
    problem(tab, "forbidden")
    expect(tab.locator(".problem").first).to_contain_text("explain")
    tab.get_by_role("link", name="Model").click()
    problem(tab, "forbidden")
    sample = opened(open_page, guarded, "#/explain?model=digits&sample=digits-0004", "explain", 403).tab
    problem(sample, "forbidden")


def test_what_is_not_disclosed_leaves_the_rest_of_use(open_page: Open, guarded: RunningGateway, image: str) -> None:
    tab = opened(open_page, guarded, f"#/explain?model=digits&image={image}", "explain").tab
    expect(tab.locator(".example").first).to_be_visible()
    assert tab.locator(".example img").count() == 0
    expect(tab.get_by_text("Examples come without pictures")).to_be_visible()
    expect(tab.get_by_text("Held-out inputs to try are not open to you")).to_be_visible()
    tab.get_by_role("link", name="Data").click()
    expect(tab.locator(".example-row").first).to_be_visible()
    assert tab.locator("img").count() == 0 and tab.get_by_role("combobox", name="Show").count() == 0
    expect(tab.get_by_text("pictures, sources, filters and other orders need a service")).to_be_visible()
    expect(tab.locator("#classes")).to_be_visible()
    assert tab.locator(".classes .chip").count() == 0 and tab.get_by_text("Draw over a range").count() == 0


def test_a_caller_who_is_told_labels_sees_the_counts_and_why_there_are_no_lists(
    open_page: Open, guarded: RunningGateway
) -> None:
    tab = opened(open_page, guarded, "#/data?model=digits", "labels").tab
    expect(tab.get_by_role("region", name="Counts by class").get_by_role("row")).to_have_count(11)
    expect(tab.get_by_text("neither which they are nor numbers")).to_be_visible()
    assert tab.get_by_role("grid").count() == 0 and tab.locator(".problem").count() == 0
    tab.get_by_role("link", name="Model").click()
    expect(tab.locator(".sentences")).to_contain_text("neither which they are nor numbers")
    expect(tab.locator(".sentences")).not_to_contain_text("discloses ids")


def test_a_caller_who_is_told_ranks_sees_the_rest(open_page: Open, guarded: RunningGateway, image: str) -> None:
    tab = opened(open_page, guarded, "#/data?model=digits", "ranks").tab
    expect(tab.get_by_text("tells only callers of the disclosure level “full”")).to_be_visible()
    expect(tab.locator(".example-row .cell-size").first).to_have_text("not told")
    expect(tab.get_by_role("region", name="l-RelatIF").get_by_role("listitem")).to_have_count(10)
    tab.get_by_role("link", name="Model").click()
    expect(tab.get_by_text("Samples whose reasons changed most")).to_be_visible()


@pytest.mark.parametrize(
    ("level", "withheld", "marks", "bars"),
    [
        ("labels", "neither which they are nor numbers", 0, 0),
        ("ranks", "which examples argued and in which order, but no scores", 8, 0),
        ("rounded", "rounded numbers, and no scores of the two RelatIF measures", 8, 4),
        ("all", None, 8, 8),
    ],
)
def test_explain_shows_what_a_level_tells_and_says_what_it_withholds(
    open_page: Open, guarded: RunningGateway, image: str, level: str, withheld: str | None, marks: int, bars: int
) -> None:
    tab = opened(open_page, guarded, f"#/explain?model=digits&image={image}&k=1", level).tab
    expect(tab.locator(".example")).to_have_count(8)
    expect(tab.get_by_text("This service tells you")).to_have_count(0 if withheld is None else 1)
    expect(tab.locator("#main")).to_contain_text(withheld or "Within a measure all bars have one scale")
    assert tab.locator(".example input").count() == marks and tab.locator(".example .signed").count() == bars
    assert tab.locator(".example .score").get_by_text("rank 1").count() == 8 - bars
    assert "NaN" not in tab.locator("#main").inner_text() and "undefined" not in tab.locator("#main").inner_text()


def test_what_if_is_not_told_below_rounded(open_page: Open, guarded: RunningGateway, image: str) -> None:
    address = f"#/explain?model=digits&image={image}&mark=digits-0226"
    tab = opened(open_page, guarded, address, "ranks").tab
    expect(tab.locator(".sentence")).to_have_text("These training examples argued for 3.")
    expect(tab.get_by_text("1 example marked")).to_be_visible()
    expect(tab.get_by_role("link", name="What if they were gone?")).to_have_count(0)
    tab.get_by_role("link", name="What if").click()
    expect(tab.get_by_role("heading", name="What would change is not told to you")).to_be_visible()
    rounded = opened(open_page, guarded, address, "rounded").tab
    expect(rounded.locator(".sentence")).to_contain_text(re.compile(r"less sure: \d\d\.0\s% instead of \d\d\.0\s%"))


def test_an_unknown_model_is_not_found(page: WatchedPage) -> None:
    page.allowed_statuses.add(404)
    tab = page.open("#/explain?model=nothing")
    problem(tab, "not_found")
    expect(tab.locator(".problem")).to_contain_text("digits")
    tab.get_by_role("combobox", name="Model", exact=True).select_option("digits")
    expect(tab.get_by_role("heading", name=re.compile("argued for"))).to_be_visible()


def test_a_sample_that_is_none_is_not_found(page: WatchedPage) -> None:
    page.allowed_statuses.add(404)
    problem(page.open("#/explain?model=digits&sample=nothing"), "not_found")


def test_a_file_that_is_no_picture_is_refused_by_name(page: WatchedPage) -> None:
    page.allowed_statuses.add(400)
    tab = page.open("#/explain?model=digits")
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose a picture").click()
    chooser.value.set_files({"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"})
    problem(tab, "invalid")
    expect(tab.locator(".picture.missing")).to_have_attribute("aria-label", re.compile("cannot be shown"))


def test_a_link_without_its_picture_says_so(page: WatchedPage) -> None:
    tab = page.open("#/explain?model=digits&upload=50000-abc")
    expect(tab.get_by_role("heading", name="This link does not carry its picture")).to_be_visible()


def test_a_lost_connection_is_told_and_comes_back_by_itself(page: WatchedPage) -> None:
    page.may_lose_connection = True
    tab = page.open("#/data?model=digits")
    expect(tab.locator(".example-row").first).to_be_visible()
    tab.route("**/v1/**", lambda route: route.abort())
    tab.get_by_role("combobox", name="Show").select_option("all examples")
    problem(tab, "lost")
    expect(tab.get_by_text("by itself in").first).to_be_visible()
    tab.unroute("**/v1/**")
    expect(tab.get_by_role("region", name="Training examples").get_by_role("status")).to_contain_text(
        "1,437 examples"
    )
    expect(tab.locator(".problem")).to_have_count(0)


def test_another_bundle_is_noticed(open_page: Open, guarded: RunningGateway, image: str) -> None:
    store = Store(guarded.store)
    page = opened(open_page, guarded, f"#/explain?model=digits&image={image}", "all")
    expect(page.tab.locator(".example").first).to_be_visible()
    current = store.current("digits").name
    other = next(path.name for path in store.bundles("digits").iterdir() if path.name != current)
    cli("publish", other, "--store", str(guarded.store))
    page.tab.get_by_label("Examples in each list").fill("5")
    page.tab.get_by_label("Examples in each list").press("Enter")
    banner = page.tab.get_by_role("alert").filter(has_text="published anew")
    expect(banner).to_contain_text(other[:12])
    banner.get_by_role("button", name="Show everything anew").click()
    expect(banner).to_have_count(0)
    expect(page.tab.locator(".quality")).to_contain_text(other[:12])


def test_a_service_that_went_away_is_told(open_page: Open, guarded: RunningGateway) -> None:
    page = opened(open_page, guarded, "#/explain?model=digits", "all")
    page.may_lose_connection = True
    page.allowed_statuses.add(503)  # while it ends
    expect(page.tab.get_by_role("button", name=re.compile("^Sample of")).first).to_be_visible()
    guarded.stop()
    page.tab.get_by_role("link", name="Data").click()
    until(lambda: page.tab.locator('.problem[data-kind="lost"]').count() > 0)
