"""Figures of matplotlib as SVG inside of a page: the same bytes each time, the page's colours, no request."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that no plot has otherwise: the page's stylesheet says what they look like, in light and in dark.
INK, QUIET, LINE, FOR, AGAINST = "#010101", "#020202", "#030303", "#040404", "#050505"
_ON_PAGES = {INK: "--ink", QUIET: "--quiet", LINE: "--line", FOR: "--for-bar", AGAINST: "--against-bar"}
ON_PAPER = {INK: "#1a1c20", QUIET: "#59606b", LINE: "#dddfe3", FOR: "#4386dd", AGAINST: "#d9781e"}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def drawing() -> Iterator[None]:
    """The style in which a block draws, whatever the user's own is."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float = 6.4, height: float = 3.2) -> Figure:
    """An empty figure in inches, outside of pyplot: it belongs to nobody else."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def inline_svg(figure: Figure, name: str, says: str) -> Markup:
    """A figure as an element of a page.

    Args:
        figure: Drawn in the colours of this module.
        name: Distinguishes its ids from those of other figures of the page.
        says: What it shows, for those who do not see it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # names such as axes_1, which every figure has
    text = re.sub(r"^<svg [^>]*?viewBox=(\"[^\"]*\")[^>]*>", r'<svg class="plot" role="img" viewBox=\1>', text)
    text = text.replace("xlink:href=", "href=")
    for colour, variable in _ON_PAGES.items():
        text = text.replace(colour, f"var({variable})")
    label = Markup('role="img" aria-label="{}"').format(says)
    return Markup(text.replace('role="img"', label, 1))
