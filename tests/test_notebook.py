"""An explanation in a notebook: what it shows of itself is whole, escaped and light; the example notebook runs."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import matplotlib as mpl
import nbclient
import nbformat
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pages import Page
from proponent.options import Measure
from proponent.results import (
    DiversityOutcome,
    Explanation,
    Influence,
    MeasureResult,
    Notice,
    NoticeCode,
    Prediction,
    Quality,
)

NOTEBOOK = Path(__file__).parent.parent / "examples" / "why_this_digit.ipynb"
HOSTILE = '<img src=x onerror="alert(1)">$x_$\n{{ 7*7 }}'


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), 90).save(buffer, format="PNG")
    return buffer.getvalue()


def influence(number: int, score: float, name: str, thumbnail: bytes) -> Influence:
    label, predicted = number % 2, number % 2 if number < 2 else 1
    return Influence(
        f"{name}{number}" if name else "", score, number + 1, label, f"{name}", predicted, 0.5, thumbnail=thumbnail
    )


def explanation(
    proponents: Sequence[float] = (3.5, 0.25), *, name: str = "cat", thumbnail: bytes = b"", target: int = 0
) -> Explanation:
    lists = [
        MeasureResult(
            measure,
            [influence(number, score, name, thumbnail) for number, score in enumerate(proponents)],
            [influence(number + 2, -score / 2, name, thumbnail) for number, score in enumerate(proponents)],
            DiversityOutcome(0.8, 0.5, 0.25, 0.75) if measure is Measure.INFLUENCE and proponents else None,
        )
        for measure in Measure
    ]
    notices = [Notice(NoticeCode.K_CAPPED, f"capped at {name}", 2)]
    quality = Quality("exact", 0.987, {"spearman": 0.99995, "queries": 32, "queries_from": "held-out set"})
    return Explanation(Prediction(0, name, [0.875, 0.125]), lists, target, "3f2a" * 16, quality, 1234, notices)


@pytest.mark.parametrize("thumbnail", [png(), b""], ids=["thumbnails", "ids"])
def test_the_page_in_a_notebook_is_whole(thumbnail: bytes) -> None:
    page = Page(explanation(thumbnail=thumbnail)._repr_html_())
    assert list(page.addresses()) == [] and page.ids() == []
    assert page.texts("p", "said") == ["cat (87.5 %)"]
    assert page.texts("p", "name") == ["Influence (IF)", "θ-RelatIF", "ℓ-RelatIF"]
    assert page.texts("td", "score") == ["+3.500", "+0.250", "−1.750", "−0.125"] * 3
    assert page.texts("caption") == ["▲ For cat", "▼ Against cat"] * 3
    assert page.texts("p", "notice") == ["capped at cat"]
    assert len(page.attributes("img")) == (12 if thumbnail else 0)
    widths = [a["style"] for a in page.attributes("span") if a.get("class") in ("plus", "minus")]
    assert widths[:4] == ["width:50.0%", "width:3.55%", "width:25.0%", "width:1.8%"]
    text = " ".join(page.texts("p"))
    assert "These training examples argued for cat." in text and "Keeps 80.0 % of IF's influence" in text
    assert "1,234 training examples" in text and "the index keeps 98.7 %" in text


def test_names_in_a_notebook_are_text() -> None:
    html = explanation(name=HOSTILE)._repr_html_()
    page = Page(html)
    assert page.attributes("img") == [] and "<img" not in html and "49" not in html
    assert page.texts("p", "notice") == [" ".join(f"capped at {HOSTILE}".split())]


def test_empty_lists_and_other_targets_are_said() -> None:
    html = explanation(())._repr_html_()
    assert Page(html).texts("td", "quiet") == ["No training example."] * 6
    assert "No training example argued for cat." in html
    assert "▲ For class 7" in explanation((), target=7)._repr_html_()
    assert Page(explanation(target=1)._repr_html_()).texts("caption")[0] == "▲ For cat"  # the examples' label of 1


def test_a_contrast_names_both_classes() -> None:
    asked = replace(explanation(), target_class_id=1, against_class_id=0)
    expected = f"{asked.results[0].proponents[1].label} rather than {asked.prediction.label}"
    assert f"argued for {expected}." in asked._repr_html_()
    assert asked.plot().get_suptitle().endswith(f"argued for {expected}.")


def test_what_a_service_leaves_out_is_a_dash() -> None:
    """At the level of ranks scores are nan, and at that of labels ids are empty too."""
    shown = explanation((nan, nan), name="")
    assert Page(shown._repr_html_()).texts("td", "score") == ["—"] * 12
    assert "in 3 lists" not in shown._repr_html_() and "nan" not in Page(shown._repr_html_()).texts("table", "for")[0]
    figure = shown.plot()
    assert [text.get_text() for text in figure.axes[0].texts] == ["—"] * 4
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0] * 4


@pytest.mark.parametrize("thumbnail", [png(), b""], ids=["thumbnails", "ids"])
@pytest.mark.parametrize("name", ["cat", HOSTILE, "a very long identifier of an example, with all of its path/"])
def test_the_figure_shows_signed_scores(name: str, thumbnail: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = explanation(name=name, thumbnail=thumbnail).plot()
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
    assert isinstance(figure, Figure) and len(figure.axes) == 3
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    for axes in figure.axes:
        assert [bar.get_width() for bar in axes.patches] == [3.5, 0.25, -0.125, -1.75]
        assert [text.get_text() for text in axes.texts] == ["+3.500", "+0.250", "−0.125", "−1.750"]
        assert axes.get_xlabel().startswith("influence") and axes.get_title()
        assert len(axes.get_yticklabels()) == 4
        boxes = [artist for artist in axes.artists if type(artist).__name__ == "AnnotationBbox"]
        assert len(boxes) == (4 if thumbnail else 0)
    colours = [
        {tuple(bar.get_facecolor()) for bar in figure.axes[0].patches[side]} for side in (slice(2), slice(2, 4))
    ]
    assert [len(one) for one in colours] == [1, 1] and colours[0] != colours[1]


def test_a_figure_of_empty_lists_says_so_and_pyplot_stays_as_it_was() -> None:
    before = dict(mpl.rcParams)
    figure = explanation(()).plot()
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["no training example"] * 3
    assert dict(mpl.rcParams) == before
    code = "import sys, test_notebook as t; t.explanation().plot(); print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are stripped"
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = [output.data for output in outputs if "data" in output]
    pages = [Page(data["text/html"]) for data in shown if 'class="proponent' in data.get("text/html", "")]
    assert [page.texts("p", "said") for page in pages] == [["3 (88.8 %)"]] and pages[0].attributes("img")
    assert [data for data in shown if "image/png" in data]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    now, then = map(float, re.findall(r"([\d.]+)% (?:now|without)", text))
    assert now == pytest.approx(88.8, abs=0.1) and then < now
    assert re.search(r"without \d+ examples the model is predicted to say \d", text)


def test_the_example_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 20_000
    assert json.loads(NOTEBOOK.read_text(encoding="utf-8"))["nbformat"] == 4
