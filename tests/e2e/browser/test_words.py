"""Numbers, sentences, addresses and exports as the page writes them, in the engine that runs them."""

from __future__ import annotations

import csv
import io
import subprocess
from typing import Any

import pytest
from playwright.sync_api import Page
from running import RunningGateway
from watched_page import Open

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

NAMES = ["zero", "one", "two"]


@pytest.fixture
def run(open_page: Open, gateway: RunningGateway) -> Any:
    tab: Page = open_page(gateway.http_url).open()

    def call(module: str, expression: str, **values: Any) -> Any:
        script = f"async (given) => {{ const m = await import('/explorer/{module}.js'); return ({expression}); }}"
        return tab.evaluate(script, values)

    return call


def case(predicted: int = 0, target: int = 0, against: int | None = None) -> dict[str, Any]:
    return {"names": NAMES, "predicted": predicted, "target": target, "against": against}


def test_numbers_keep_what_counts_and_align(run: Any) -> None:
    written = {
        "m.percent(0.8876)": "88.8\u00a0%",
        "m.percent(0)": "0.0\u00a0%",
        "m.percent(0.0001)": "<\u00a00.1\u00a0%",
        "m.percent(0.99999)": ">\u00a099.9\u00a0%",
        "m.percent(1)": "100.0\u00a0%",
        "m.percents(0.88, 0.88002)": ["88.000\u00a0%", "88.002\u00a0%"],
        "m.percents(0.5, 0.5)": ["50.0\u00a0%", "50.0\u00a0%"],
        "m.score(-3.6719, 6.3436)": "\u22123.672",
        "m.score(0.05, 6.3436)": "+0.050",
        "m.score(0.00002, 0.00004)": "+2.000e\u22125",
        "m.score(0, 0)": "+0",
        "m.figure(1234.5678)": "1,235",
        "m.figure(0.0001234)": "0.000123",
        "m.figure(0)": "0",
        "m.figure(100)": "100",
        "m.figure(NaN)": "unknown",
        "m.points(-0.0123)": "\u22121.2",
        "m.points(0.00001)": "0.0",
        "m.size(123456)": "123\u00a0kB",
    }
    assert run("format", f"[{', '.join(written)}]") == list(written.values())
    assert run("later_format", "m.date('2026-11-26T14:20:36+00:00')") == "2026-11-26 14:20 UTC"


def test_a_removal_is_told_by_what_it_changes(run: Any) -> None:
    told = {
        "less sure: 70.0\u00a0% instead of 80.0\u00a0%.": (case(), [0.8, 0.1, 0.1], [0.7, 0.2, 0.1]),
        "even surer: 90.0\u00a0% instead of 80.0\u00a0%.": (case(), [0.8, 0.1, 0.1], [0.9, 0.05, 0.05]),
        "the model would say one: zero would get": (case(), [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]),
        "zero would get what it gets now: 80.0\u00a0%.": (case(), [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]),
        "two would be less likely: 5.0\u00a0% instead of 10.0\u00a0%.": (
            case(target=2),
            [0.8, 0.1, 0.1],
            [0.85, 0.1, 0.05],
        ),
        "of 80.0\u00a0%, while one would get 20.0\u00a0% instead of 10.0\u00a0%.": (
            case(against=1),
            [0.8, 0.1, 0.1],
            [0.7, 0.2, 0.1],
        ),
    }
    for words, (asked, before, after) in told.items():
        expression = "m.removalSentence(given.asked, 'the first', given.before, given.after)"
        said = run("sentences", expression, asked=asked, before=before, after=after)
        assert said.startswith("Without the first, ") and words in said


def test_what_nobody_measured_is_said(run: Any) -> None:
    unmeasured = run("trust", "m.trustSentences({curvature: 'ekfac', kept_energy: 0.9, audit: {}})")
    assert "approximation" in unmeasured[0] and "90.0\u00a0%" in unmeasured[0]
    assert unmeasured[1:] == [
        "It has not been compared with models that were really retrained (proponent audit does that)."
    ]
    audit = {"spearman": 0.9987, "queries": 32, "queries_from": "held-out set", "covered_gradient_energy": 0.5}
    audit["lds"] = {"mean": 0.41, "interval_95": [0.3, 0.5], "subsets": 64}
    measured = " ".join(run("trust", "m.trustSentences(given)", curvature="exact", kept_energy=1.0, audit=audit))
    assert "On 32 held-out inputs" in measured and "almost as the full computation does (0.999 of 1)" in measured
    assert "How high a score could be was not measured" in measured
    audit["lds"]["ceiling"] = 0.8
    bounded = " ".join(run("trust", "m.trustSentences(given)", curvature="exact", kept_energy=1.0, audit=audit))
    assert "no method would reach more than 0.8" in bounded
    assert "64 models that were really retrained" in measured and "to 0.41 of 1, between 0.3 and 0.5" in measured
    assert "hold 50.0\u00a0% of what moves in training" in measured


def test_the_address_holds_the_question(run: Any) -> None:
    hash_ = "#/whatif?model=a%20b&sample=x%2Fy&k=7&target=3&against=8&allow=1&allow=2&mark=p%2Cq&mark=r&loss=0.1"
    read = run(
        "question",
        "import('/explorer/route.js').then((r) => m.readQuestion(r.parseHash(given.hash).params))",
        hash=hash_,
    )
    assert (read["sample"], read["k"], read["target"], read["against"]) == ("x/y", 7, 3, 8)
    assert (read["allow"], read["marks"], read["loss"], read["gamma"]) == ([1, 2], ["p,q", "r"], 0.1, 1)
    written = run("route", "m.formatHash(m.parseHash(given.hash))", hash=hash_)
    assert run("route", "m.formatHash(m.parseHash(given.hash))", hash=written) == written


@pytest.mark.parametrize(
    "query", ["k=-1", "k=ten", "target=x", "gamma=-1", "gamma=", "loss=2", "term=nothing", "against=8"]
)
def test_what_an_address_cannot_mean_counts_as_left_out(run: Any, query: str) -> None:
    plain = run("question", "m.readQuestion(new URLSearchParams(''))")
    assert run("question", "m.readQuestion(new URLSearchParams(given.query))", query=query) == plain


def test_pictures_survive_links(run: Any) -> None:
    expression = "[...m.fromBase64(m.urlSafe(m.toBase64(Uint8Array.from(given.bytes))))]"
    for length in (1, 2, 3, 20_000):
        content = [(7 * i + 250) % 256 for i in range(length)]
        assert run("pictures", expression, bytes=content) == content
    assert run("pictures", "m.fromBase64('%').length") == 0


def test_marks_are_exported_without_loss(run: Any) -> None:
    examples = [{"example_id": 'a,"b"', "label": "x", "self_influence": 0}, {"example_id": "c"}]
    assert run("marks", "m.toCsv(given.examples)", examples=examples) == (
        'example_id,label,self_influence\r\n"a,""b""",x,0\r\nc,,\r\n'
    )
    command = run("marks", "m.forgetCommand(given.ids, 'digits')", ids=["digits-0001", "it's here", "-x"])
    assert command == "proponent forget --model digits -- digits-0001 'it'\\''s here' -x"


def test_no_spreadsheet_computes_what_is_exported(run: Any) -> None:
    ids = ["=1+1", "+SUM(A1)", "@x", "-rf", "\t=1", "-5", "+2.5", "a=b"]
    content = run("marks", "m.toCsv(given.ids.map((id) => ({ example_id: id })))", ids=ids)
    shown = ["'=1+1", "'+SUM(A1)", "'@x", "'-rf", "'\t=1", "-5", "+2.5", "a=b"]
    assert [row[0] for row in csv.reader(io.StringIO(content, newline=""))] == ["example_id", *shown]


def test_a_shell_reads_the_ids_that_were_marked(run: Any) -> None:
    ids = [
        "two\nlines",
        "a'b\\c\x1b[201~",
        "$(touch x)",
        "`x`",
        "=ls",
        "~",
        "*",
        "it's",
        "\u00e9\x7f",
        "-x",
        " ",
        "a!b",
    ]
    command = run("marks", "m.forgetCommand(given.ids, 'm')", ids=ids)
    assert command.isprintable()
    script = f"proponent() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == ["forget", "--model", "m", "--", *ids]


def test_any_id_can_stand_in_a_path(run: Any) -> None:
    ids = ["a/b", "../up", "./x/../y", "/abs/x.png", "x//y", "100%", "a?b#c", "two\nlines", "a:explain", "\u00e9 b"]
    read = "decodeURIComponent(new URL('v1/samples/' + m.idPath(id), location.href).pathname.slice(12))"
    assert run("api", f"given.ids.map((id) => {read})", ids=ids) == ids
    assert run("api", "m.idPath('a/b.png')") == "a/b.png"


def test_ids_are_cut_where_they_are_alike(run: Any) -> None:
    cut = {
        "digits-0012": ["digit", "s-0012"],
        "train/cat/00084.jpeg": ["train/cat", "/00084.jpeg"],
        "12345": ["", "12345"],
        "row-12345": ["", "row-12345"],
    }
    assert run("format", "given.ids.map(m.headAndTail)", ids=list(cut)) == list(cut.values())


def test_an_explanation_tells_which_bundle_answers(run: Any) -> None:
    reply = "JSON.stringify({ explanations: [{ bundle_digest: 'newer' }] })"
    others = "path.includes('explain') ? answer : asked(path, options)"  # the page itself may ask meanwhile
    fetch = (
        f"((asked, answer) => window.fetch = async (path, options) => {others})(window.fetch, new Response({reply}))"
    )
    answered = f"({fetch}, m.explain('toy', {{}}))"
    told = "import('/explorer/bundles.js').then((bundles) => bundles.lastDigest('toy'))"
    assert run("api", f"await {answered}, {told}") == "newer"


def test_failures_that_pass_are_tried_again_and_others_are_not(run: Any) -> None:
    delays = "[1, 2, 3, 9].map((n) => m.retryDelay(given, n))"
    assert run("request", delays, kind="lost", retryAfter=2) == [2, 4, 8, 15]
    assert run("request", delays, kind="overloaded", retryAfter=10) == [10, 10, 10, 15]
    assert run("request", delays, kind="not_ready", retryAfter=None) == [2, 4, 8, 15]
    assert run("request", delays, kind="invalid", retryAfter=None) == [None] * 4
