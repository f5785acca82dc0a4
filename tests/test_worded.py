"""Texts and rows of training examples: kept, shown with their permission, forgotten, and nowhere do they act."""

from __future__ import annotations

import io
import json
import re
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console

import wordy
from proponent import Explainer, ExplainOptions, View
from proponent.cli.terminal import print_explanation
from proponent.client.requests import explain_request
from proponent.display.contents import cells, visible
from proponent.index.bundle import CATALOG
from proponent.index.catalog import Catalog
from proponent.index.forgetting import forget
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.reports.inputs import Unreadable, input_files, read_files
from proponent.reports.report import write_report
from proponent.results import Explanation
from proponent.signature import InputKind
from proponent.spec import load_spec
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.messages import explain_response

ROW = {"job": "nurse", "age": 30, "smokes": True, "note": "none"}
ASKED: dict[str, Any] = {wordy.TEXT: Text("a good film"), wordy.RECORD: ROW}
ALL = ExplainOptions(top_k=wordy.COUNT, view=View.THUMBNAIL)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    found = {}
    for name in (wordy.TEXT, wordy.RECORD):
        root = tmp_path_factory.mktemp(name)
        found[name] = Store(root / "store")
        rebuild(load_spec(wordy.project(root / "project", name)), found[name], RebuildOptions(quiet=True))
    return found


def ask(store: Store, name: str, options: ExplainOptions = ALL) -> Explanation:
    explainer = Explainer.load(store.current(name))
    with closing(explainer):
        [answer] = explainer.explain([ASKED[name]], [options])
    assert isinstance(answer, Explanation)
    return answer


def examples(answer: Explanation) -> dict[str, Any]:
    return {one.example_id: one for one in (*answer.results[0].proponents, *answer.results[0].opponents)}


def test_an_answer_holds_the_training_texts_where_they_are_asked_for(stores: dict[str, Store]) -> None:
    shown = examples(ask(stores[wordy.TEXT], wordy.TEXT))
    assert len(shown) > len(wordy.NASTY)
    for number, text in enumerate(wordy.NASTY):
        one = shown[f"opinion/{number}"]
        assert (one.text, one.record, one.thumbnail) == (text, None, b"")
    unasked = examples(ask(stores[wordy.TEXT], wordy.TEXT, ExplainOptions(top_k=24, view=View.METADATA)))
    assert unasked.keys() == shown.keys() and {one.text for one in unasked.values()} == {""}


def test_an_answer_holds_the_training_rows_where_they_are_asked_for(stores: dict[str, Store]) -> None:
    shown = examples(ask(stores[wordy.RECORD], wordy.RECORD))
    one = shown["person/4"]
    assert one.record == {"age": None, "job": "cook", "smokes": True, "note": wordy.NASTY[4]}
    assert (one.text, one.thumbnail) == ("", b"")
    unasked = examples(ask(stores[wordy.RECORD], wordy.RECORD, ExplainOptions(top_k=24, view=View.ID_ONLY)))
    assert {one.record for one in unasked.values()} == {None}


@pytest.mark.parametrize(("name", "gone"), [(wordy.TEXT, "opinion/9"), (wordy.RECORD, "person/3")])
def test_what_was_forgotten_is_off_the_disk(name: str, gone: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundle = rebuild(load_spec(wordy.project(tmp_path / "project", name)), store, RebuildOptions(quiet=True))
    with closing(Catalog.open(bundle / CATALOG)) as catalog:
        entry = catalog.get(gone)
    assert entry is not None
    secret = (entry.text or f'"age": {entry.record["age"]}, "job"').encode()  # type: ignore[index]
    assert secret in (bundle / CATALOG).read_bytes()
    forget(store, name, [gone], compact=True)
    assert not bundle.exists() and secret not in (store.current(name) / CATALOG).read_bytes()
    assert gone not in examples(ask(store, name))
    with closing(Catalog.open(store.current(name) / CATALOG)) as catalog:
        assert sum(1 for each in catalog if each.text or each.record) == wordy.COUNT - 1


def test_a_notebook_shows_texts_and_nothing_in_them_acts(stores: dict[str, Store]) -> None:
    html = ask(stores[wordy.TEXT], wordy.TEXT)._repr_html_()
    assert "<img" not in html and "<script" not in html and "\x1b" not in html and "\u202e" not in html
    for text in wordy.NASTY:
        assert str(escape(visible(text))) in html


def test_a_notebook_marks_in_what_rows_differ(stores: dict[str, Store]) -> None:
    html = ask(stores[wordy.RECORD], wordy.RECORD)._repr_html_()
    assert "<script" not in html and "<img" not in html
    found = re.findall(r'<div( class="differs")?><dt>(\w+)</dt><dd>([^<]*)', html)
    assert {
        (column, bool(differs)) for differs, column, value in found if column == "job" and value.strip() == "nurse"
    } == {("job", False)}
    assert {bool(differs) for differs, column, value in found if column == "job" and value.strip() == "cook"} == {
        True
    }
    assert "missing" in {value.strip() for _, column, value in found if column == "age"}


@pytest.mark.parametrize("name", [wordy.TEXT, wordy.RECORD])
def test_a_report_shows_inputs_and_examples_as_they_are(stores: dict[str, Store], name: str, tmp_path: Path) -> None:
    bundle, out = stores[name].current(name), tmp_path / "report.html"
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "a.txt").write_text("a <b>good</b> film")
    (inputs / "b.json").write_text(json.dumps(ROW))
    (inputs / "c.json").write_text("[1]")
    (inputs / "d.txt").write_bytes(b"\xff")
    refused: list[Unreadable] = []
    files = input_files(inputs, InputKind.TEXT if name == wordy.TEXT else InputKind.RECORD)
    count = write_report(bundle, out, partial(read_files, files), top_k=24, warn=refused.append)
    html = out.read_text(encoding="utf-8")
    assert count == 1 and {one.name for one in refused} == {"d.txt" if name == wordy.TEXT else "c.json"}
    assert "<script" not in html and "<img" not in html and "\x1b" not in html and "{{" in html
    asked = "a &lt;b&gt;good&lt;/b&gt; film" if name == wordy.TEXT else "nurse"
    assert asked in html
    for text in wordy.NASTY[2:4]:
        assert str(escape(visible(text))) in html


def test_reports_and_notebooks_mark_words_and_nothing_acts(stores: dict[str, Store], tmp_path: Path) -> None:
    inputs, out = tmp_path / "inputs", tmp_path / "report.html"
    inputs.mkdir()
    (inputs / "a.txt").write_text("a <b>good</b> film")
    bundle = stores[wordy.TEXT].current(wordy.TEXT)
    for highlight in (False, True):
        files = input_files(inputs, InputKind.TEXT)
        write_report(bundle, out, partial(read_files, files), top_k=3, warn=print, highlight=highlight)
        html = out.read_text(encoding="utf-8")
        assert ("<mark" in html) == highlight == ("Carried by “good”" in html)
    assert re.search(r"a &lt;(<mark[^>]*>)?b", html) and re.search(
        r'<mark class="plus step4" title="[^"]+">good</mark>', html
    )
    with closing(Explainer.load(bundle)) as explainer:
        found = explainer.highlight_examples(Text("a good film"), ["opinion/0"], ExplainOptions(view=View.THUMBNAIL))
    shown = found._repr_html_()
    assert '">good</mark>' in shown and "&lt;" in shown and "<img" not in shown and "trained on" in shown
    assert "trained on" not in replace(found, highlights=[replace(found.highlights[0], text="")])._repr_html_()


def test_plots_show_the_beginning_of_texts_and_rows(stores: dict[str, Store]) -> None:
    for name, shown in ((wordy.TEXT, "a good story , number 9 ("), (wordy.RECORD, "age 25, job nurse, smokes false")):
        axes = ask(stores[name], name).plot().axes[0]
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert any(label.startswith(shown) for label in labels), labels
        assert all("\x1b" not in label and "\u202e" not in label for label in labels)


def test_a_terminal_shows_texts_and_nothing_in_them_acts(stores: dict[str, Store]) -> None:
    reply, console = explain_response(ask(stores[wordy.TEXT], wordy.TEXT), ""), Console(width=200, file=io.StringIO())
    print_explanation(console, reply, pb.ExplainRequest())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in printed and "\u202e" not in printed
    assert "[bold red]good[/bold red]" in printed and "\\x1b[2J\\u202e" in printed


def test_a_terminal_marks_words_and_says_them(stores: dict[str, Store]) -> None:
    reply, asked = (
        explain_response(ask(stores[wordy.TEXT], wordy.TEXT), ""),
        explain_request("m", ASKED[wordy.TEXT], ALL),
    )
    first = reply.results[0].proponents[0]
    start = first.text.index("film")
    pair = pb.Highlight(
        example_id=first.example_id,
        asked=[pb.WeighedWord(start=2, end=6, weight=2.5), pb.WeighedWord(start=7, end=11, weight=-0.5)],
        example=[pb.WeighedWord(start=start, end=start + 4, weight=-1.25)],
    )
    printed = {}
    for system in (None, "standard"):
        console = Console(width=200, file=io.StringIO(), color_system=system, force_terminal=bool(system))
        print_explanation(console, reply, asked, words=pb.HighlightExamplesResponse(highlights=[pair]))
        printed[system] = console.file.getvalue()  # type: ignore[attr-defined]
    assert "carried by “good” +2.5, “film” -0.5" in printed[None] and "carried by “film” -1.25" in printed[None]
    assert "\x1b[1;7;34mgood\x1b[0m" in printed["standard"] and "\x1b" not in printed[None]


def test_a_terminal_says_in_what_rows_differ(stores: dict[str, Store]) -> None:
    reply, console = (
        explain_response(ask(stores[wordy.RECORD], wordy.RECORD), ""),
        Console(width=300, file=io.StringIO()),
    )
    print_explanation(console, reply, explain_request("m", ROW, ALL))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "job: cook (not nurse)" in printed and "age: missing (not 30)" in printed
    assert "job: nurse" not in printed and "\x1b" not in printed


def test_what_differs_comes_first_and_what_is_missing_is_said() -> None:
    asked = {"age": 30, "job": None, "home": "owned"}
    found = cells({"home": "owned", "age": 31.0, "job": "cook", "new": ""}, asked, ["job"])
    assert [(cell.column, cell.value, cell.asked) for cell in found] == [
        ("job", "cook", "missing"),
        ("age", "31", "30"),
        ("new", "empty", "missing"),
        ("home", "owned", None),
    ]
