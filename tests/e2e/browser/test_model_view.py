"""Model: what is known in words, the audit's plots, the store's bundles and what changed between two of them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from watched_page import WatchedPage

from proponent.audit.tuning import DAMPINGS, Trial, Tuning
from proponent.index.audit_file import audits_of, keep_audit
from proponent.index.store import Store
from proponent.spec import load_spec

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

MODEL = "#/model?model=digits"


def check(tab: Page, name: str) -> Locator:
    return tab.get_by_role("region", name=name, exact=True)


def is_drawn(plot: Locator) -> bool:
    """Whether anything but the ground is on the canvas."""
    pixels = """plot => { const canvas = plot.querySelector("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size; }"""
    return int(plot.evaluate(pixels)) > 10


def test_says_in_words_what_the_model_is(page: WatchedPage) -> None:
    tab = page.open(MODEL)
    expected = "The model digits tells 10 classes apart (inputs of 1 × 8 × 8), and was trained on 1,437 examples."
    expect(tab.locator(".sentence").first).to_contain_text(expected)
    for words in (
        "exact curvature",
        "no damping",
        "takes part in the explanation",
        "You may look up training examples",
    ):
        expect(tab.locator(".sentences")).to_contain_text(words)
    digest = page.api("v1/models/digits")["weights_sha256"]
    expect(tab.get_by_text(digest)).to_be_hidden()
    tab.get_by_text("The figures").click()
    expect(tab.get_by_text(digest)).to_be_visible()


def test_draws_what_the_audit_measured(page: WatchedPage) -> None:
    tab = page.open(MODEL)
    audit = page.api("v1/models/digits")["audit"]
    agreement = f"{audit['lds']['mean']:.3g}"
    expect(check(tab, "Against retrained models")).to_contain_text(
        f"agree to {agreement} of 1 on average (95 % interval"
    )
    expect(check(tab, "One example left out")).to_contain_text(f"slope {audit['leave_one_out']['slope']:.3g}")
    plots = tab.locator(".check").get_by_role("img")
    expect(plots).to_have_count(2)
    assert all(is_drawn(plot) for plot in plots.all())


def test_says_how_to_measure_what_was_not(page: WatchedPage) -> None:
    tab = page.open(MODEL)
    for name, command in (
        ("Planted label errors", "proponent audit --model digits --label-noise 0.1"),
        ("Choice of damping", "proponent rebuild explain.yaml --damping auto"),
    ):
        expect(check(tab, name)).to_contain_text("Not measured for this bundle.")
        expect(check(tab, name).locator("code")).to_have_text(command)


def test_draws_planted_label_errors_and_the_sweep_of_dampings(page: WatchedPage, store: Store) -> None:
    """These take minutes to measure: they are written as an audit and a rebuild write them."""
    bundle = store.current("digits")
    file = audits_of(bundle) / f"{bundle.name}.json"
    before = file.read_text()
    trials = [Trial(damping, second, 256, 0.3 + second / damping) for damping in DAMPINGS for second in (0.1, 1.0)]
    tuning = Tuning(load_spec(bundle / "spec.yaml"), tuple(trials), trials[0], "damping 1 was taken", 16, 50)
    shares = [place / 20 for place in range(21)]
    recovery = {"inspected": shares, "found": [min(1.0, 4 * share) for share in shares]}
    noise = {"flipped": 144, "auc": 0.9, "interval_95": [0.8, 1.0], "trainings": 1, "recovery": recovery}
    keep_audit(bundle, {**tuning.metrics(), "label_noise": noise})
    try:
        tab = page.open(MODEL)
        sweep, errors = check(tab, "Choice of damping"), check(tab, "Planted label errors")
        expect(sweep).to_contain_text("damping 1 was taken; measured on 16 retrained models and 50 held-out inputs.")
        expect(errors).to_contain_text(re.compile("Of 144 flipped labels nine in ten are found by looking at 25"))
        assert is_drawn(sweep.get_by_role("img")) and is_drawn(errors.get_by_role("img"))
    finally:
        file.write_text(before)


def test_lists_the_bundles_of_the_store(page: WatchedPage) -> None:
    tab = page.open(MODEL)
    bundles = page.api("v1/models/digits/bundles")["bundles"]
    rows = tab.get_by_role("region", name="Bundles", exact=True).locator("tbody tr")
    expect(rows).to_have_count(len(bundles))
    for row, bundle in zip(rows.all(), bundles, strict=True):
        expect(row).to_contain_text(bundle["digest"][:12])
        expect(row).to_contain_text(bundle["created"][:16].replace("T", " "))
    expect(rows.filter(has_text="answers now")).to_have_count(1)


def test_compares_two_bundles(page: WatchedPage) -> None:
    tab = page.open(MODEL)
    reply = page.api("v1/models/digits/bundles:diff?base=" + other_bundle(page))
    section = tab.get_by_role("region", name="What changed in the reasons")
    overlap = f"{100 * reply['overall']['overlap']:.1f}"
    expect(section.locator(".sentence")).to_contain_text(
        re.compile(f"Over 200 held-out samples {overlap}\\s% of the 10 strongest")
    )
    expect(section.get_by_role("region", name="By class").locator("tbody tr")).to_have_count(len(reply["per_class"]))
    least = reply["per_sample"][0]
    expect(section.get_by_role("listitem").first).to_contain_text(least["sample_id"])
    expect(section.get_by_role("listitem").first).to_contain_text("for, new")
    expect(section.get_by_role("listitem").first).to_contain_text(least["entered_proponents"][0])
    section.get_by_label("Measure").select_option("θ-RelatIF")
    section.get_by_label("Lists of the first").select_option("5")
    expect(section.locator(".sentence")).to_contain_text("of the 5 strongest")
    assert "measure=theta-relatif&length=5" in tab.url
    seen = section.locator(".sentence").inner_text()
    tab.reload()
    expect(section.locator(".sentence")).to_have_text(seen)


def other_bundle(page: WatchedPage) -> str:
    answering = page.api("v1/models/digits")["bundle_digest"]
    bundles = page.api("v1/models/digits/bundles")["bundles"]
    return str(next(each["digest"] for each in bundles if each["digest"] != answering))
