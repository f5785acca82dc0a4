"""An explanation as a piece of HTML for notebooks: complete in itself, in light and in dark."""

from __future__ import annotations

from typing import Any

from proponent.display.columns import claim, columns
from proponent.display.marks import HINT
from proponent.display.page import plain_picture, render
from proponent.display.sentences import SIGN, lead, trust
from proponent.display.shown import Explanation


def fragment(explanation: Explanation) -> str:
    """The prediction and the lists side by side."""
    label, quality = claim(explanation), explanation.quality
    proponents = max((len(result.proponents) for result in explanation.results), default=0)
    return render(
        "notebook.html",
        explanation=explanation,
        columns=columns(explanation.results),
        label=label,
        sentence=lead(label, proponents),
        sign=SIGN.format(label=label),
        trust=" ".join(trust(quality.curvature, quality.kept_energy, quality.audit)),
        picture=plain_picture,
    )


def words_fragment(found: Any) -> str:
    """Pairs of texts with the words that carry their influence, from `proponent.results.Highlights`."""
    return render("words.html", found=found, hint=HINT)
