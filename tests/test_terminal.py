"""Names come from users' data: in a terminal they are text, whatever they hold."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

import stores
import tiny
from proponent.cli.terminal import print_explanation
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb

NAMES = ["[/bold]", "two\nlines \x1b[2J", "[red]three[/red] :cat:"]
SHOWN = ["[/bold]", "two\\nlines \\x1b[2J", "[red]three[/red] :cat:"]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("named")
    store = Store(root / "store")
    rebuild(load_spec(tiny.project(root / "project", class_names=NAMES)), store, RebuildOptions(quiet=True))
    pixels, labels = tiny.pictures(3, seed=1)
    for picture, label in zip(pixels, labels.tolist(), strict=True):
        Image.fromarray(picture.numpy()).save(root / f"{label}.png")
    return store


@pytest.mark.parametrize("label", range(3))
def test_an_explanation_says_names_as_they_are(named: Store, label: int) -> None:
    done = stores.run("explain", named.root.parent / f"{label}.png", store=named)
    assert done.returncode == 0, done.stderr
    assert f"prediction: {SHOWN[label]} (" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "command", [("suspects",), ("flip", "{image}"), ("score", "{image}", "toy/1"), ("diff", "{digest}")]
)
def test_each_record_is_one_line(named: Store, command: tuple[str, ...]) -> None:
    digest, image = named.current(stores.MODEL).name, named.root.parent / "1.png"
    done = stores.run(*(word.format(image=image, digest=digest) for word in command), store=named)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.isprintable() for line in lines) and any(SHOWN[1] in line for line in lines)
    assert not any(line.startswith("lines ") for line in lines)


def test_ids_neither_act_nor_are_taken_for_markup() -> None:
    found = pb.Influence(example_id="[/x]\x1b]0;title\x07", label="[bold]", rank=1, score=1.0)
    result = pb.MeasureResult(measure=pb.MEASURE_INFLUENCE, proponents=[found], opponents=[found])
    reply = pb.ExplainResponse(
        prediction=pb.Prediction(label="[/]", probabilities=[1.0]),
        results=[result],
        notices=[pb.Notice(message="of [link=x]layer[/nothing]")],
    )
    shown = io.StringIO()
    print_explanation(Console(file=shown, width=120, color_system=None), reply, pb.ExplainRequest())
    for text in ("prediction: [/] (100.0%)", "[/x]\\x1b]0;title\\x07", "[bold]", "of [link=x]layer[/nothing]"):
        assert text in shown.getvalue()


def test_one_list_is_marked_by_sign() -> None:
    strong, weak = pb.Influence(example_id="a", rank=2, score=1.0), pb.Influence(example_id="b", rank=1, score=-3.0)
    result = pb.MeasureResult(measure=pb.MEASURE_INFLUENCE, proponents=[strong], opponents=[weak])
    reply = pb.ExplainResponse(prediction=pb.Prediction(label="x", probabilities=[1.0]), results=[result])
    shown = io.StringIO()
    print_explanation(Console(file=shown, width=120, color_system=None), reply, pb.ExplainRequest(), merged=True)
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in shown.getvalue().splitlines() if "│" in line]
    assert rows == [["1", "against", "b"], ["2", "for", "a"]]
