"""Reports: whole in one file, true to what the explainer answers, and safe whatever ids, labels and paths hold."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import stores
import tiny
from pages import Page
from proponent.display.figures import percent, score, signed
from proponent.display.page import Pictures
from proponent.errors import SamplesMissingError
from proponent.explainer import Explainer
from proponent.index.audit_file import keep_audit
from proponent.index.bundle import SAMPLES
from proponent.index.samples import Samples
from proponent.index.store import Store
from proponent.options import Diversity, Estimator, ExplainOptions, Measure, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.reports.answers import AT_ONCE, Answer, answer_all
from proponent.reports.inputs import Input, Unreadable, input_files, read_files, require_samples
from proponent.reports.writing import write_page
from proponent.results import Explanation
from proponent.spec import load_spec

HOSTILE = "<script>alert('x')</script>"
CLASSES = [HOSTILE, 'stripes"onmouseover="x', "{{ 7*7 }}"]
BROKEN = '"><img src=x onerror=alert(1)>.png'
AUDIT = {
    "lds": {
        "mean": 0.5,
        "interval_95": [0.4, None],
        "subsets": 32,
        "queries": 3,
        "seeds": 1,
        "per_query": [-0.2, 0.7, 1],
    },
    "leave_one_out": {
        "removals": 2,
        "queries": 2,
        "correlation": 0.99,
        "correlation_interval_95": [0.9, 1.0],
        "slope": 1.07,
        "slope_interval_95": [0.8, 1.2],
        "points": {"predicted": [0.1, -0.2, 0.0, 0.3], "real": [0.1, -0.25, 0.01, 0.31]},
    },
    "label_noise": {
        "flipped": 4,
        "auc": 0.9,
        "interval_95": [0.8, 1.0],
        "trainings": 1,
        "recovery": {"inspected": [0, 0.5, 1], "found": [0, 0.75, 1]},
    },
    "tuning": {
        "trials": [
            {"damping": damping, "second_damping": second, "embedding_size": size, "lds": damping / 1000 + second}
            for damping in (1.0, 10.0)
            for second in (0.1, 1.0)
            for size in (4, 111)
        ],
        "reason": "damping 10 was best",
        "subsets": 16,
        "queries": 10,
        "seeds": 1,
    },
}


@dataclass(frozen=True)
class Made:
    """A report, and what it was made of."""

    store: Store
    inputs: Path
    out: Path
    done: stores.Done

    @property
    def text(self) -> str:
        return self.out.read_text(encoding="utf-8")

    @property
    def page(self) -> Page:
        return Page(self.text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Nine pictures and a file that is none, explained by a model with hostile names of classes and examples."""
    root = tmp_path_factory.mktemp("reports")
    path = tiny.project(root / "project", count=60)
    module = next((root / "project").glob("toy_module_*.py"))
    module.write_text(module.read_text().replace('f"toy/{position}"', f'f"{HOSTILE}/{{position}}"'))
    store = Store(root / "store")
    rebuild(load_spec(tiny.change(path, class_names=CLASSES)), store, RebuildOptions(quiet=True))
    inputs = root / "inputs"
    inputs.mkdir()
    pictures = tiny.pictures(9, seed=3)[0]
    pictures[0] = undecided(Explainer.load(store.current(stores.MODEL)), *pictures[:2])
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels.numpy()).save(inputs / f"{8 - number}.png")
    (inputs / BROKEN).write_bytes(b"no picture")
    (inputs / "notes.txt").write_text("not an image")
    out = root / "report.html"
    return Made(
        store, inputs, out, stores.run("report", "--inputs", inputs, "--out", out, "--top-k", "3", store=store)
    )


def undecided(explainer: Explainer, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The blend of two pictures of which the model is least sure: few examples decide it."""
    blends = [(one * (1 - part) + other * part).to(torch.uint8) for part in torch.linspace(0, 1, 200)]
    answers = explainer.predict([blend.float()[None] / 255 for blend in blends])
    sure = [max(answer.probabilities) for answer in answers if not isinstance(answer, Exception)]
    return blends[sure.index(min(sure))]


def explained(made: Made, name: str, options: ExplainOptions) -> tuple[Explainer, Input, Explanation]:
    """What the explainer itself answers for one of the pictures."""
    explainer = Explainer.load(made.store.current(stores.MODEL))
    [asked] = read_files([made.inputs / name], explainer)
    assert isinstance(asked, Input)
    [answer] = explainer.explain([asked.value], [options])
    assert isinstance(answer, Explanation)
    return explainer, asked, answer


def check_self_contained(page: Page) -> None:
    assert list(page.addresses()) == []
    assert not {"script", "iframe", "object", "link", "img"} & {tag for tag, _, _ in page.elements}
    assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    [policy] = [m["content"] for m in page.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    assert len(page.ids()) == len(set(page.ids()))
    assert all(attributes.get("aria-label") for attributes in page.attributes("svg"))
    assert all("scope" in attributes for attributes in page.attributes("th"))


def test_a_report_holds_every_view_and_asks_nobody(made: Made) -> None:
    assert made.done.returncode == 0, made.done.stderr
    assert made.done.stdout == f"{made.out}: 9 inputs explained\n"
    page = made.page
    check_self_contained(page)
    assert page.texts("h2") == ["Explain", "Data", "Model"]
    assert page.texts("h3")[:11] == [
        "Not explained",
        *(f"{number}.png" for number in range(9)),
        "Examples that appear in most lists",
    ]
    assert page.texts("h5") == ["Influence (IF)", "θ-RelatIF", "ℓ-RelatIF", "DIVINE"] * 9
    assert len(page.texts("table", "for")) == len(page.texts("table", "against")) == 4 * 9
    assert {"Suspects of a wrong label", "Self-influence", "Classes", "Measured faithfulness"} <= set(
        page.texts("h3")
    )
    assert [name for name in ("1.png", "8.png") if f'id="name-{int(name[0]) + 1}"' not in made.text] == []


def test_what_cannot_be_read_is_named_and_the_others_are_explained(made: Made) -> None:
    assert made.done.stderr == f"warning: {BROKEN}: 10 bytes are not a PNG or JPEG image\n"
    [item] = [text for text in made.page.texts("li") if "not a PNG" in text]
    assert item == f"{BROKEN}: 10 bytes are not a PNG or JPEG image"


def test_names_are_text_whatever_they_hold(made: Made) -> None:
    """Of classes, of examples and of files: none becomes an element, an attribute or a template."""
    page = made.page
    assert HOSTILE not in made.text and "onerror=alert" not in made.text.replace(
        "&gt;&lt;img src=x onerror=alert(1)&gt;", ""
    )
    assert any(text.startswith(f"{HOSTILE}/") for text in page.texts("span", "id"))
    assert set(CLASSES) <= set(page.texts("th"))
    assert "49" not in page.texts("th")


def test_lists_and_figures_are_the_explainers(made: Made) -> None:
    explainer, asked, answer = explained(made, "4.png", ExplainOptions(top_k=3))
    page = made.page
    places = {number: slice(3 * number, 3 * number + 3) for number in range(4 * 9)}
    rows = {side: page_rows(made.text, side) for side in ("for", "against")}
    _, _, divine = explained(made, "4.png", ExplainOptions((Measure.INFLUENCE,), 3, diversity=Diversity()))
    for column, result in enumerate([*answer.results, *divine.results]):
        scale = max(abs(one.score) for one in [*result.proponents, *result.opponents])
        scale = max(scale, max(abs(one.score) for one in answer.results[0].proponents)) if column == 3 else scale
        for side, influences in (("for", result.proponents), ("against", result.opponents)):
            shown = rows[side][places[4 * 4 + column]]
            assert shown == [(one.example_id, score(one.score, scale)) for one in influences]
    likelihood = answer.prediction.probabilities[answer.prediction.class_id]
    assert page.texts("p", "said")[4] == f"{answer.prediction.label} ({percent(likelihood)})".replace("\xa0", " ")
    ids = [one.example_id for one in answer.results[0].proponents]
    estimate = explainer.estimate_removal(asked.value, Target(), ids, estimator=Estimator.SECOND_ORDER)
    table = page.texts("table", "removals")[4]
    assert f"the first three {', '.join(ids)} {signed(estimate.loss_change)}" in table


def test_sets_that_flip_a_prediction_are_shown_or_missed_aloud(made: Made) -> None:
    explainer = Explainer.load(made.store.current(stores.MODEL))
    inputs = [one for one in read_files(input_files(made.inputs), explainer) if isinstance(one, Input)]
    found = [explainer.find_flip_set(one.value) for one in inputs]
    tables, cards = made.page.texts("table", "removals"), made.page.texts("article", "card")
    assert len({bool(flip.members) for flip in found}) == 2, "both kinds are among the pictures"
    for flip, table, card in zip(found, tables, cards, strict=True):
        assert ("predicted to flip it" in table) == bool(flip.members)
        assert all(f"{one.example_id}" in table for one in flip.members[:1])
        assert all(notice.message in card for notice in flip.notices)


def page_rows(text: str, side: str) -> list[tuple[str, str]]:
    """Id and score of every row of the lists of one side, in document order."""
    found = []
    for part in text.split(f'<table class="{side}">')[1:]:
        page = Page(part.partition("</table>")[0].join(("<table>", "</table>")))
        found += list(zip(page.texts("span", "id"), page.texts("td", "score"), strict=True))
    return found


def test_a_report_is_the_same_bytes_again(made: Made, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    assert (
        stores.run("report", "--inputs", made.inputs, "--out", again, "--top-k", "3", store=made.store).returncode
        == 0
    )
    assert again.read_bytes() == made.out.read_bytes()
    assert list(tmp_path.iterdir()) == [again]


def test_each_picture_is_inlined_once(made: Made) -> None:
    images = [attributes["href"] for attributes in made.page.attributes("image")]
    assert 9 < len(images) == len(set(images)) <= 9 + 60
    used = {attributes["href"].removeprefix("#") for attributes in made.page.attributes("use")}
    assert {name for name in used if name.startswith("p")} <= set(made.page.ids())
    assert (
        "none" in Pictures()("nothing")
        and "<image" in (first := Pictures())("a", made_png())
        and "<use" in first("a")
    )


def made_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_inputs_are_read_as_they_are_answered(made: Made) -> None:
    """However many there are, memory holds one batch of them."""
    explainer = Explainer.load(made.store.current(stores.MODEL))
    taken = count()

    def endless() -> Iterator[Input | Unreadable]:
        for number in taken:
            yield Input(f"{number}", tiny.inputs(1)[0], b"") if number % 3 else Unreadable(f"{number}", "so")

    found = list(islice(answer_all(explainer, endless(), 2), AT_ONCE + 1))
    assert next(taken) == 2 * AT_ONCE
    names = [one.asked.name if isinstance(one, Answer) else one.name for one in found]
    assert names == [str(number) for number in range(AT_ONCE + 1)]
    assert [isinstance(one, Unreadable) for one in found] == [number % 3 == 0 for number in range(AT_ONCE + 1)]


@pytest.mark.parametrize("dataset", ["Images", "Tensors"])
def test_held_out_samples_are_explained_with_their_labels(tmp_path: Path, dataset: str) -> None:
    path = tiny.project(tmp_path / "project", count=30, dataset=dataset, samples=4)
    factory = yaml.safe_load(path.read_text())["dataset"]["factory"]
    store = Store(tmp_path / "store")
    bare = rebuild(load_spec(path), store, RebuildOptions(quiet=True, publish=False))
    bundle = rebuild(load_spec(tiny.change(path, held_out={"factory": factory})), store, RebuildOptions(quiet=True))
    with closing(Samples.open(bundle / SAMPLES)) as samples:
        kept = list(samples)
    done = stores.run("report", "--samples", "9", "--out", tmp_path / "r.html", store=store)
    assert done.returncode == 0 and done.stderr == "warning: the bundle keeps 4 samples, 9 were asked for\n"
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.texts("h3")[: len(kept)] == [sample.sample_id for sample in kept] and len(kept) == 4
    assert [text for text in page.texts("figcaption") if text.startswith("Its label")] == [
        f"Its label: {tiny.CLASSES[sample.class_id]}" for sample in kept
    ]
    said = [text.partition(" (")[0] for text in page.texts("p", "said")]
    assert said == [tiny.CLASSES[sample.predicted_class_id] for sample in kept]
    with pytest.raises(
        SamplesMissingError, match=r"keeps no samples: rebuild a spec that has 'held_out' with .* --samples"
    ):
        require_samples(bare)


def test_a_known_label_tells_a_wrong_prediction(made: Made) -> None:
    explainer = Explainer.load(made.store.current(stores.MODEL))
    value = tiny.inputs(1)[0]
    [prediction] = explainer.predict([value])
    assert not isinstance(prediction, Exception)
    inputs = [Input("x", value, b"", label) for label in (None, prediction.class_id, (prediction.class_id + 1) % 3)]
    found = [one for one in answer_all(explainer, inputs, 2) if isinstance(one, Answer)]
    assert [one.wrong for one in found] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--inputs", "nowhere", "--out", "r.html"], 3, "folder of inputs not found: "),
        (
            ["--inputs", "empty", "--out", "r.html"],
            2,
            "holds no file named *.png, *.jpg or *.jpeg (1 other entries)",
        ),
        (["--inputs", "bad", "--out", "r.html"], 2, "none of 2 inputs can be read; a.png: 3 bytes are not"),
        (["--inputs", "bad", "--out", "missing/r.html"], 3, "folder of the report not found: "),
        (["--inputs", "bad", "--out", "empty"], 3, "is a folder, expected a file"),
        (["--out", "r.html"], 2, "neither of --inputs and --samples given"),
        (["--inputs", "bad", "--samples", "3", "--out", "r.html"], 2, "both of --inputs and --samples given"),
        (["--samples", "3", "--out", "r.html"], 4, "keeps no samples"),
    ],
)
def test_what_cannot_become_a_report_is_said(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty", "inside.png").mkdir(parents=True)
    Path("bad").mkdir()
    for name in ("b.PNG", "a.png"):
        Path("bad", name).write_bytes(b"not")
    done = stores.run("report", *arguments, store=made.store)
    assert done.returncode == code and expected in done.stderr.splitlines()[-1]
    assert not Path("r.html").exists()


def test_files_are_found_by_name_in_order(tmp_path: Path) -> None:
    for name in ("b.jpeg", "a.PNG", "c.jpg", "d.gif", "e"):
        (tmp_path / name).touch()
    assert [path.name for path in input_files(tmp_path)] == ["a.PNG", "b.jpeg", "c.jpg"]


def test_only_a_plain_file_is_replaced(tmp_path: Path) -> None:
    pipe, link, plain = tmp_path / "pipe", tmp_path / "link", tmp_path / "plain"
    os.mkfifo(pipe)
    link.symlink_to(plain)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for out in (pipe, link):
            write_page(out, ["page"])
        assert os.read(reader, 10) == b"page" and pipe.is_fifo()
    finally:
        os.close(reader)
    assert link.is_symlink() and plain.read_text() == "page"
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link", "plain"}


def test_suspects_as_a_page(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "suspects.html"
    done = stores.run("suspects", "--limit", "5", "--offset", "2", "--html", out, "--csv", store=made.store)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    page = Page(out.read_text(encoding="utf-8"))
    check_self_contained(page)
    assert page.texts("span", "id") == [row["example_id"] for row in rows] and len(rows) == 5
    assert "Suspects 3 to 7 of 60" in page.texts("caption")
    counted = [text for text in page.texts("tr") if any(text.startswith(f"{name} ") for name in CLASSES)]
    assert [text.removeprefix(name).split()[0] for name, text in zip(CLASSES, counted, strict=True)] == ["20"] * 3


def test_forgotten_examples_are_in_no_part(made: Made, tmp_path: Path) -> None:
    store = Store(shutil.copytree(made.store.root, tmp_path / "store"))
    gone = made.page.texts("span", "id")[0]
    assert stores.run("forget", gone, store=store).returncode == 0
    out = tmp_path / "r.html"
    assert stores.run("report", "--inputs", made.inputs, "--out", out, "--top-k", "3", store=store).returncode == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert gone not in page.texts("span", "id")
    assert "Suspects 1 to 24 of 59" in page.texts("caption")


def test_an_audit_is_drawn(made: Made, tmp_path: Path) -> None:
    store = Store(shutil.copytree(made.store.root, tmp_path / "store"))
    keep_audit(store.current(stores.MODEL), AUDIT)
    out = tmp_path / "r.html"
    assert stores.run("report", "--inputs", made.inputs, "--out", out, store=store).returncode == 0
    page = Page(out.read_text(encoding="utf-8"))
    check_self_contained(page)
    drawn = [attributes["aria-label"] for attributes in page.attributes("svg") if attributes.get("class") == "plot"]
    assert [label.partition(",")[0].partition(":")[0] for label in drawn] == [
        "Self-influence of 60 training examples",
        "Linear datamodeling score of 3 queries",
        "Real change of loss after leaving out one example",
        "Share of 4 planted label errors found by share of examples read in order of self-influence",
        "Linear datamodeling score by damping at K 111",
    ]
    assert "half are found after reading 50.0\xa0%" in drawn[3] and "4 settings" in drawn[4]
    texts = page.texts("text")
    for axis in (
        "predicted change of loss",
        "real change of loss (retrained)",
        "number of queries",
        "datamodeling score",
    ):
        assert axis in texts
    assert "lds.interval_95 0.4 to unknown" in page.texts("tr")
    assert "nobody has measured" not in out.read_text(encoding="utf-8").lower()
    assert "Nobody has measured it against really retrained models yet" in made.text
