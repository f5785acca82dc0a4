"""The figures of Explain and What if are those of the API, and what a link or a mark cannot do is said."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Route, expect
from running import RunningGateway
from watched_page import WatchedPage

from proponent.datasets import digits as data

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

COLUMNS = ["Influence (IF)", "θ-RelatIF", "l-RelatIF", "DIVINE"]
MEASURES = ["influence", "theta-relatif", "l-relatif"]


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


DIGIT = png(data.test()[0][0])


def address(view: str = "explain", image: bytes = DIGIT, **options: Any) -> str:
    carried = base64.urlsafe_b64encode(image).decode().rstrip("=")
    return f"#/{view}?{urlencode({'model': 'digits', 'image': carried, **options}, doseq=True)}"


def call(gateway: RunningGateway, method: str, **body: Any) -> Any:
    reply = gateway.http.post(f"/v1/models/digits:{method}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def explanation(gateway: RunningGateway, **options: Any) -> Any:
    instance = {"image": base64.b64encode(DIGIT).decode(), **options}
    return call(gateway, "explain", instances=[instance])["explanations"][0]


def removal(gateway: RunningGateway, ids: list[str], **options: Any) -> Any:
    query = {"image": base64.b64encode(DIGIT).decode()}
    return call(gateway, "estimateRemoval", query=query, example_ids=ids, **options)


def percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def column(tab: Page, name: str) -> Locator:
    return tab.get_by_role("region", name=name, exact=True)


def ids(tab: Page, name: str) -> list[str]:
    return column(tab, name).locator("[data-example]").evaluate_all("all => all.map(each => each.dataset.example)")


def expected_ids(result: Any) -> list[str]:
    return [each["example_id"] for each in [*result["proponents"], *result["opponents"]]]


def operate(control: Locator, value: str) -> None:
    if control.evaluate("each => each.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(value)
        control.blur()


@pytest.fixture
def asked(page: WatchedPage) -> Iterator[list[Any]]:
    """The bodies of the explanations that the page asks for."""
    bodies: list[Any] = []

    def note(request: Request) -> None:
        if request.url.endswith(":explain"):
            bodies.append(request.post_data_json)

    page.tab.on("request", note)
    yield bodies


def test_the_sentence_the_prediction_and_four_lists(page: WatchedPage, gateway: RunningGateway) -> None:
    tab = page.open(address(k=3))
    answer = explanation(gateway, top_k=3, measures=MEASURES)
    first = answer["results"][0]["proponents"][0]["example_id"]
    before, after = answer["prediction"]["probabilities"][3], removal(gateway, [first])["probabilities_after"][3]
    words = f"Without the first, the model would be less sure: {percent(after)} instead of {percent(before)}."
    expect(tab.get_by_role("heading", level=2)).to_have_text(f"These training examples argued for 3. {words}")
    expect(tab.locator(".probability").first).to_contain_text(percent(before))
    for name, result in zip(COLUMNS[:3], answer["results"], strict=True):
        assert ids(tab, name) == expected_ids(result)
    divine = explanation(gateway, top_k=3, measures=["influence"], diversity={"gamma": 1})["results"][0]
    assert ids(tab, "DIVINE") == expected_ids(divine)
    kept = percent(divine["proponents_diversity"]["influence_kept"])
    expect(column(tab, "DIVINE").locator("h4").first).to_contain_text(f"keeps {kept}")


def test_the_sentence_never_mixes_two_explanations(page: WatchedPage) -> None:
    """The second estimate is held back: until it comes, the figures of the first must not stand beside it."""
    tab = page.open(address())
    sentence = tab.locator(".sentence")
    expect(sentence).to_contain_text("instead of")
    held: list[Route] = []
    tab.route("**/*:estimateRemoval", lambda route: held.append(route))
    with tab.expect_request("**/*:estimateRemoval"):
        tab.get_by_label("Why").select_option("8")
    expect(sentence).to_contain_text("argued for 8. Estimating what would change")
    held[0].continue_()
    expect(sentence).to_contain_text("8 would be")


def test_scores_have_their_sign_and_one_scale(page: WatchedPage, gateway: RunningGateway) -> None:
    tab = page.open(address(k=3))
    result = explanation(gateway, top_k=3, measures=MEASURES)["results"][0]
    rows = column(tab, COLUMNS[0]).locator("[data-example]")
    expect(rows).to_have_count(6)
    scores = [each["score"] for each in [*result["proponents"], *result["opponents"]]]
    shown = [float(text.replace("\u2212", "-")) for text in rows.locator(".score").all_inner_texts()]
    assert shown == pytest.approx(scores, abs=5e-4)
    bars = rows.locator(".signed > span").evaluate_all("all => all.map(each => parseFloat(each.style.width))")
    assert bars == pytest.approx([50 * abs(score) / max(map(abs, scores)) for score in scores], abs=1e-3)
    sides = rows.locator(".signed > span").evaluate_all("all => all.map(each => each.className)")
    assert sides == ["for" if score > 0 else "against" for score in scores]


def test_a_disagreement_of_model_and_label_is_marked(page: WatchedPage, gateway: RunningGateway) -> None:
    tab = page.open(address(k=30))
    result = explanation(gateway, top_k=30, measures=MEASURES)["results"][0]
    found = [*result["proponents"], *result["opponents"]]
    expect(column(tab, COLUMNS[0]).locator("[data-example]")).to_have_count(len(found), timeout=15_000)
    marked = column(tab, COLUMNS[0]).locator("[data-example]:has(.differs)")
    shown = marked.evaluate_all("all => all.map(each => each.dataset.example)")
    assert shown == [each["example_id"] for each in found if each["class_id"] != each["predicted_class_id"]]
    assert shown


@pytest.mark.parametrize(
    ("label", "value", "sent"),
    [
        ("Examples in each list", "4", {"top_k": 4}),
        ("Why", "8", {"target": {"class_id": 8}}),
        ("rather than", "8", {"target": {"contrast": {"for_class_id": 3, "against_class_id": 8}}}),
        ("Only examples labelled", "2", {"filter": {"allow_class_ids": [2], "deny_class_ids": []}}),
        ("None labelled", "3", {"filter": {"allow_class_ids": [], "deny_class_ids": [3]}}),
        ("DIVINE: diverse means", "mmd", {"diversity": {"redundancy": "mmd", "gamma": 1}}),
        ("DIVINE: gamma", "2.5", {"diversity": {"redundancy": "sum", "gamma": 2.5}}),
        ("DIVINE: how much", "loss", {"diversity": {"redundancy": "sum", "max_influence_loss": 0.1}}),
    ],
)
def test_every_control_asks_anew_and_stands_in_the_link(
    page: WatchedPage, asked: list[Any], label: str, value: str, sent: dict[str, Any]
) -> None:
    tab = page.open(address())
    expect(tab.locator("[data-example]").first).to_be_visible()
    with tab.expect_request("**/*:explain"):
        operate(tab.get_by_label(label, exact=True), value)
    body = {**asked[1]["instances"][1], **{key: each for key, each in asked[1].items() if key != "instances"}}
    assert {key: body[key] for key in sent} == sent
    sentence = tab.locator(".sentence")
    expect(tab.locator(".pending")).to_have_count(0)
    expect(sentence).not_to_contain_text("…")
    seen = sentence.inner_text()
    tab.reload()
    expect(sentence).to_have_text(seen)
    assert asked[2] == asked[1]


def test_a_picture_too_large_for_a_link_is_said_to_be(page: WatchedPage) -> None:
    noise = Image.effect_noise((256, 256), 100)
    tab = page.open("#/explain?model=digits&image=AAAA")
    page.allowed_statuses = {400}
    tab.get_by_label("Picture file").set_input_files({"name": "n.png", "mimeType": "image/png", "buffer": png(noise)})
    expect(tab.locator(".input")).to_contain_text("too large for a link")
    tab.reload()
    expect(tab.get_by_role("heading", name="This link does not carry its picture")).to_be_visible()


def test_a_picture_that_does_not_fit_can_be_fitted(page: WatchedPage) -> None:
    """A colour photograph of the digit, too large and not square: what is sent is grey and of the model's size."""
    large = data.test()[0][0].resize((80, 80), Image.Resampling.NEAREST).convert("RGB")
    wide = Image.new("RGB", (120, 80), "black")
    wide.paste(large, (20, 0))
    page.allowed_statuses = {400}
    tab = page.open(address(image=png(wide)))
    expect(tab.get_by_role("alert")).to_contain_text("IMAGE_WRONG_CHANNELS")
    tab.get_by_role("button", name="Fit the picture").click()
    expect(tab.locator(".sentence")).to_contain_text("argued for 3")
    carried = re.search(r"image=([^&]+)", tab.url)
    assert carried
    fitted = Image.open(io.BytesIO(base64.urlsafe_b64decode(carried[1] + "=" * (-len(carried[1]) % 4))))
    assert (fitted.mode, fitted.size) == ("L", (8, 8))
    pairs = zip(fitted.tobytes(), data.test()[0][0].tobytes(), strict=True)
    assert max(abs(ours - theirs) for ours, theirs in pairs) <= 2


@pytest.mark.parametrize("estimator", ["second-order", "influence-sum"])
def test_each_estimator_gives_its_own_figure(page: WatchedPage, gateway: RunningGateway, estimator: str) -> None:
    group = expected_ids(explanation(gateway, top_k=5)["results"][0])
    tab = page.open(address("whatif", mark=group))
    name = {"second-order": "One Newton step", "influence-sum": "Influence ÷ N"}[estimator]
    tab.get_by_role("radio", name=name).check()
    change = removal(gateway, group, estimator=f"ESTIMATOR_{estimator.upper().replace('-', '_')}")["loss_change"]
    verb = "rise" if change > 0 else "fall"
    expect(tab.locator(".said")).to_contain_text(f"The loss for 3 would {verb} by {abs(change):.3g}")
    assert f"estimator={estimator}" in tab.url


def test_no_flip_found_is_a_state_of_its_own(page: WatchedPage, gateway: RunningGateway) -> None:
    def found(image: bytes) -> Any:
        return call(gateway, "findFlipSet", query={"image": base64.b64encode(image).decode()})

    image = next(image for image in (png(data.test()[i][0]) for i in range(20)) if not found(image)["members"])
    tab = page.open(address("whatif", image, flip=1))
    expect(tab.get_by_role("heading", name="No flip found")).to_be_visible()
    expect(tab.get_by_text(f"No set of up to {found(image)['notices'][0]['count']} examples")).to_be_visible()
    expect(tab.get_by_text("does not prove that there is none")).to_be_visible()


def test_marks_are_saved_as_csv(page: WatchedPage, gateway: RunningGateway, tmp_path: Path) -> None:
    example = expected_ids(explanation(gateway)["results"][0])[0]
    tab = page.open(address("whatif", mark=example))
    expect(tab.locator(".named [data-example]")).to_have_count(1)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download as CSV").click()
    download.value.save_as(tmp_path / "marks.csv")
    lines = (tmp_path / "marks.csv").read_text().splitlines()
    assert lines[0].startswith("example_id,class_id,label") and lines[1].startswith(f"{example},3,3,3,")


def test_unknown_marks_are_told_and_can_be_dropped(page: WatchedPage) -> None:
    page.allowed_statuses = {404}
    tab = page.open(address("whatif", mark="nobody"))
    expect(tab.locator(".said").get_by_role("alert")).to_contain_text("'nobody'")
    tab.get_by_role("button", name="Unmark all").click()
    expect(tab.get_by_role("heading", name="Nothing is marked yet")).to_be_visible()
