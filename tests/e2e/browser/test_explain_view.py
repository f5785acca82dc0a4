"""Explain: an input by every way in, the sentence, four lists that light up together, and every control."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from watched_page import WatchedPage, until

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

MEASURES = {"Influence (IF)": 0, "θ-RelatIF": 1, "l-RelatIF": 2}
COLUMNS = (*MEASURES, "DIVINE")
SENTENCE = re.compile(r"^These training examples argued for 3\. Without the first, the model would be .*[\d.]+\s%")

HAND_OVER = """([encoded, type]) => {
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
    const panel = document.querySelector("section.input");
    if (type === "paste") window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
    else panel.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def encoded(image: str) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(image + "=" * (-len(image) % 4))).decode()


def explained(page: WatchedPage, image: str, parameters: str = "") -> Page:
    tab = page.open(f"#/explain?model=digits&image={image}{parameters}")
    expect(tab.get_by_role("region", name="DIVINE").get_by_role("listitem").first).to_be_visible()
    return tab


def ids(tab: Page, column: str, side: str = "Argued for") -> list[str]:
    found = tab.get_by_role("region", name=column, exact=True).locator("section.list").filter(has_text=side)
    return found.locator("[data-example]").evaluate_all("rows => rows.map(row => row.dataset.example)")


def asked(page: WatchedPage, image: str, **options: Any) -> list[list[str]]:
    """Proponents and opponents of each measure, from the API itself."""
    body = {"instances": [{"image": encoded(image)}], **options}
    reply = page.post("v1/models/digits:explain", body)["explanations"][0]["results"]
    sides = ("proponents", "opponents")
    return [[each["example_id"] for each in result[side]] for result in reply for side in sides]


def test_shows_what_the_service_answers(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    expect(tab.get_by_role("heading", name=SENTENCE)).to_be_visible()
    answers = asked(page, image)
    for name, place in MEASURES.items():
        assert ids(tab, name) == answers[2 * place] and len(ids(tab, name)) == 10
        assert ids(tab, name, "Argued against") == answers[2 * place + 1]
    pictures = tab.locator(".example img")
    assert pictures.count() == tab.locator(".example").count() == 80
    assert pictures.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    scores = tab.get_by_role("region", name="θ-RelatIF").locator(".score").all_inner_texts()
    assert all(score.startswith("+") for score in scores[:10]) and all(score.startswith("−") for score in scores[10:])


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_takes_a_picture_by_every_way_in(page: WatchedPage, image: str, way: str) -> None:
    tab = page.open("#/explain?model=digits")
    expect(tab).to_have_url(re.compile("sample="))
    if way == "choose":
        with tab.expect_file_chooser() as chooser:
            tab.get_by_role("button", name="Choose a picture").click()
        picture = base64.b64decode(encoded(image))
        chooser.value.set_files({"name": "digit.png", "mimeType": "image/png", "buffer": picture})
    else:
        tab.evaluate(HAND_OVER, [encoded(image), way])
    expect(tab.get_by_role("heading", name=SENTENCE)).to_be_visible()
    expect(tab).to_have_url(re.compile(f"image={image}"))


def test_a_sample_is_explained_with_its_label(page: WatchedPage) -> None:
    tab = page.open()
    first = page.api("v1/models/digits/samples?page_size=1")["samples"][0]
    tab.get_by_role("button", name=re.compile("^Sample of")).first.click()
    expect(tab.locator(".chosen")).to_contain_text(f"{first['sample_id']}, labelled {first['label']}")
    expect(tab.get_by_role("heading", name=re.compile("argued for"))).to_be_visible()
    assert f"sample={first['sample_id']}" in tab.url
    tab.get_by_role("button", name="More samples").click()
    expect(tab.get_by_text(re.compile("^17–32 of 200"))).to_be_visible()
    tab.get_by_role("button", name="Previous samples").click()
    expect(tab.get_by_text(re.compile("^1–16 of 200"))).to_be_visible()


def test_the_same_example_lights_up_in_every_list(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    name = ids(tab, "Influence (IF)")[0]
    places = sum(name in ids(tab, column) for column in COLUMNS)
    assert places > 1
    tab.locator(f'[data-example="{name}"]').first.hover()
    assert tab.locator(".lit").count() == places
    expect(tab.get_by_role("complementary", name="Example and marks")).to_contain_text(name)
    tab.mouse.move(0, 0)
    other = ids(tab, "l-RelatIF", "Argued against")[3]
    tab.get_by_role("region", name="l-RelatIF").get_by_role("checkbox", name=f"Mark {other}").focus()
    assert set(tab.locator(".lit").evaluate_all("rows => rows.map(row => row.dataset.example)")) == {other}


def test_length_and_class_filters_count_for_every_list(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    tab.get_by_label("Examples in each list").fill("3")
    tab.get_by_label("Examples in each list").press("Enter")
    expect(tab.locator(".example")).to_have_count(24)
    tab.get_by_label("Only examples labelled").select_option("3")
    tab.get_by_label("Only examples labelled").select_option("9")
    expect(
        tab.get_by_role("heading", name=re.compile("^Of the examples that the filter lets through"))
    ).to_be_visible()
    assert ids(tab, "θ-RelatIF") == asked(page, image, top_k=3, filter={"allow_class_ids": [3, 9]})[2]
    tab.get_by_role("button", name="Take out 9").click()
    tab.get_by_label("None labelled").select_option("3")
    expect(tab.get_by_role("heading", name=re.compile("none argued for 3"))).to_be_visible()
    assert "k=3&allow=3&deny=3" in tab.url


def test_another_class_and_a_contrast_can_be_explained(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    tab.get_by_label("rather than").select_option("8")
    expect(tab.get_by_role("heading", name=re.compile("argued for 3 rather than 8"))).to_be_visible()
    contrast = {"contrast": {"for_class_id": 3, "against_class_id": 8}}
    assert ids(tab, "Influence (IF)") == asked(page, image, target=contrast)[0]
    tab.get_by_label("Why").select_option("9")
    expect(tab.get_by_role("heading", name=re.compile("argued for 9 rather than 8"))).to_be_visible()
    tab.get_by_label("rather than").select_option("")
    expect(tab.get_by_role("heading", name=re.compile("argued for 9. Without the first, 9 would"))).to_be_visible()
    assert ids(tab, "Influence (IF)") == asked(page, image, target={"class_id": 9})[0]


def test_divine_has_its_term_and_strength(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    column = tab.get_by_role("region", name="DIVINE")
    expect(column.get_by_text(re.compile(r"keeps [\d.]+\s%", re.IGNORECASE)).first).to_be_visible()
    diverse = ids(tab, "DIVINE")
    assert diverse != ids(tab, "Influence (IF)")
    tab.get_by_label("DIVINE: diverse means").select_option(index=1)
    chosen = asked(page, image, diversity={"redundancy": "facility-location"})[0]
    until(lambda: ids(tab, "DIVINE") == chosen)
    tab.get_by_label("DIVINE: gamma").fill("0")
    tab.get_by_label("DIVINE: gamma").press("Enter")
    until(lambda: ids(tab, "DIVINE") == ids(tab, "Influence (IF)"))
    tab.get_by_label("DIVINE: how much").select_option("loss")
    tab.get_by_label("DIVINE: loses at most").fill("5")
    tab.get_by_label("DIVINE: loses at most").press("Enter")
    cheap = asked(page, image, diversity={"redundancy": "facility-location", "max_influence_loss": 0.05})[0]
    until(lambda: ids(tab, "DIVINE") == cheap)


def test_says_how_far_to_trust_and_gives_the_figures_one_click_deeper(page: WatchedPage, image: str) -> None:
    tab = explained(page, image)
    model = page.api("v1/models/digits")
    trust = tab.locator(".quality")
    expect(trust).to_contain_text("exact curvature of the training loss")
    expect(trust).to_contain_text(f"Against {model['audit']['lds']['subsets']:g} models that were really retrained")
    expect(trust).to_contain_text(model["bundle_digest"][:12])
    expect(trust.get_by_text(model["bundle_digest"], exact=True)).to_be_hidden()
    trust.get_by_text("The figures").click()
    expect(trust.get_by_text(model["bundle_digest"], exact=True)).to_be_visible()


def test_a_link_reproduces_the_view(page: WatchedPage, image: str) -> None:
    tab = explained(page, image, "&k=4&allow=3&allow=8&against=8&target=3&term=mmd&gamma=0.5&mark=digits-0226")
    seen = [ids(tab, column) for column in COLUMNS]
    expect(tab.locator(".sentence")).to_contain_text("instead of")
    heading = tab.locator(".sentence").inner_text()
    tab.reload()
    expect(tab.locator(".sentence")).to_have_text(heading)
    assert [ids(tab, column) for column in COLUMNS] == seen and len(seen[0]) == 4
    expect(tab.get_by_label("DIVINE: gamma")).to_have_value("0.5")
    expect(tab.get_by_role("complementary")).to_contain_text("1 example marked")
