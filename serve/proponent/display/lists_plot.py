"""The lists of an explanation as a figure of matplotlib: signed bars, with pictures where there are any."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proponent.display.columns import Column, Row, claim, columns
from proponent.display.contents import cells, visible
from proponent.display.figures import percent
from proponent.display.sentences import lead
from proponent.display.shown import Example, Explanation
from proponent.display.svg import AGAINST, FOR, INK, ON_PAPER, QUIET

_UNITS = {
    "influence": "influence (÷ N: rise of the loss without it)",
    "theta-relatif": "influence / distance that it moves the model",
    "l-relatif": "influence / square root of self-influence",
}
_ROW, _TITLE, _BARS, _CHARACTER = 0.34, 1.0, 3.2, 0.075
"""Inches."""
_DPI = 110
_LONGEST = 24
"""Characters of a name."""
_WORDS = 40
"""Characters of a text or a row."""
_PICTURE = 20
"""Points."""


class ShownFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()


def lists_figure(explanation: Explanation) -> Figure:
    """One panel for each measure: proponents above, opponents below, longest bars at both ends.

    The figure is the caller's own: no pyplot state is read or changed.
    """
    found = columns(explanation.results)
    rows = max((len(column.proponents) + len(column.opponents) for column in found), default=0)
    width = sum(_BARS + _CHARACTER * _longest(column) for column in found)
    figure = ShownFigure(figsize=(max(_BARS, width), _TITLE + _ROW * max(1, rows)), layout="constrained")
    prediction, label = explanation.prediction, claim(explanation)
    sure = percent(prediction.probabilities[prediction.class_id])
    proponents = max((len(column.proponents) for column in found), default=0)
    title = figure.suptitle(f"Prediction: {prediction.label} ({sure}). {lead(label, proponents)}", x=0.01, ha="left")
    title.set(fontsize=11, parse_math=False)
    panels = figure.subplots(1, len(found), squeeze=False)[0] if found else []
    for axes, column, result in zip(panels, found, explanation.results, strict=True):
        _draw(axes, column, _UNITS[result.measure.value])
    return figure


def _draw(axes: Axes, column: Column, unit: str) -> None:
    rows = [*column.proponents, *reversed(column.opponents)]
    scores = [row.example.score if isfinite(row.example.score) else 0.0 for row in rows]
    colours = [ON_PAPER[FOR if score >= 0 else AGAINST] for score in scores]
    bars = axes.barh(range(len(rows)), scores, color=colours, height=0.62)
    axes.bar_label(bars, [row.score for row in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color=ON_PAPER[INK], linewidth=0.8)
    axes.margins(x=0.3)
    axes.set_title(column.method.name, fontsize=10)
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=_PICTURE + 6 if any(row.example.thumbnail for row in rows) else 4)
    _pictures(axes, rows)
    if not rows:
        axes.text(0.5, 0.5, "no training example", ha="center", transform=axes.transAxes, color=ON_PAPER[QUIET])


def _longest(column: Column) -> int:
    """Characters of the longest name."""
    return max((len(_name(row)) for row in [*column.proponents, *column.opponents]), default=0)


def _name(row: Row) -> str:
    said = f", model says {_short(row.said)}" if row.said else ""
    return f"{_shown(row.example)} ({_short(row.example.label)}{said})".strip()


def _shown(example: Example) -> str:
    """The beginning of a text or of a row, where they are shown, else the id."""
    row = ", ".join(f"{each.column} {each.value}" for each in cells(example.record or {}))
    words = " ".join(visible(example.text or row).split())
    if not words:
        return _short(example.example_id)
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}…"


def _short(text: str) -> str:
    """Text on one line whose middle is left out where it is long: both ends of an id distinguish it."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"


def _pictures(axes: Axes, rows: Sequence[Row]) -> None:
    """Draws thumbnails between the names and the bars."""
    import numpy as np
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image

    for place, row in enumerate(rows):
        if not row.example.thumbnail:
            continue
        image = Image.open(io.BytesIO(row.example.thumbnail)).convert("RGB")
        box = OffsetImage(np.asarray(image), zoom=_PICTURE / max(image.size), interpolation="nearest")
        offset = (-_PICTURE / 2 - 3, 0)
        axes.add_artist(
            AnnotationBbox(box, (0, place), offset, ("axes fraction", "data"), "offset points", frameon=False, pad=0)
        )
