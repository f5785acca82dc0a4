"""Figures of the study: written as PNG and SVG, the same bytes each time, and panels of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proponent.display.svg import drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#4386dd", "#d9781e", "#59606b", "#3a8f5b"
FORMATS = ("png", "svg")
_DPI = 100
_CELL, _HEAD = 1.05, 0.42
"""Inches."""


@dataclass(frozen=True)
class Panel:
    """One image of a grid: ``pixels`` [H, W] or [H, W, 3] uint8; None leaves the place empty."""

    pixels: Any
    caption: str


def save_picture(figure: Figure, directory: Path, name: str) -> None:
    """Writes NAME.png and NAME.svg."""
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(directory / f"{name}.png", dpi=_DPI, facecolor="white", metadata={"Software": None})
        figure.savefig(directory / f"{name}.svg", facecolor="white", metadata={"Date": None})


def grid(rows: Sequence[tuple[str, Sequence[Panel]]], title: str = "") -> Figure:
    """Rows of images, each behind its name."""
    width = max(len(panels) for _, panels in rows)
    with drawing():
        figure = new_figure(1.3 + _CELL * width, (_CELL + _HEAD) * len(rows) + (0.3 if title else 0))
        axes = figure.subplots(len(rows), width, squeeze=False)
        for line, (name, panels) in zip(axes, rows, strict=True):
            for place, panel in zip(line, [*panels, *[Panel(None, "")] * (width - len(panels))], strict=True):
                _panel(place, panel)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
        figure.suptitle(title, fontsize=10)
    return figure


def _panel(axes: Any, panel: Panel) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(panel.caption, fontsize=7, pad=2)
    if panel.pixels is not None:
        axes.imshow(panel.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
