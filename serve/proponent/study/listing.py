"""The lists of a figure: the strongest training examples of some test points, with their images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from proponent.audit.scoring import AuditContext
from proponent.options import Diversity, ExplainOptions, Measure, Ranking, Redundancy, Target, View
from proponent.results import Explanation, Influence
from proponent.study.drawing import Panel

TOP = 3
MEASURES = {"IF": Measure.INFLUENCE, "RelatIF": Measure.THETA_RELATIF}
DIVINE = Diversity(Redundancy.SUM, gamma=1.0, candidates=200)
_PIXELS = {1: "L", 3: "RGB"}


def explained(context: AuditContext, positions: Sequence[int], options: ExplainOptions) -> list[Explanation]:
    """Explanations of held-out examples at their true labels."""
    items = [context.held_out.item(position) for position in positions]
    asked = [ExplainOptions(**{**vars(options), "target": Target(label)}) for _, _, label in items]
    answers = context.explainer.explain([tensor for _, tensor, _ in items], asked)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [answer for answer in answers if isinstance(answer, Explanation)]


def strongest(context: AuditContext, positions: Sequence[int]) -> list[Mapping[str, Sequence[Influence]]]:
    """Of each held-out example the top 3 by |I| of IF and RelatIF, as the paper has it, and DIVINE's proponents."""
    plain = ExplainOptions(
        measures=tuple(MEASURES.values()), top_k=TOP, ranking=Ranking.BY_MAGNITUDE, view=View.THUMBNAIL
    )
    diverse = ExplainOptions(measures=(Measure.INFLUENCE,), top_k=TOP, diversity=DIVINE, view=View.THUMBNAIL)
    found: list[Mapping[str, Sequence[Influence]]] = []
    for first, second in zip(
        explained(context, positions, plain), explained(context, positions, diverse), strict=True
    ):
        lists: dict[str, Sequence[Influence]] = {
            name: result.merged for name, result in zip(MEASURES, first.results, strict=True)
        }
        found.append({**lists, "DIVINE": second.results[0].proponents})
    return found


def panels(
    context: AuditContext, position: int, lists: Mapping[str, Sequence[Influence]]
) -> list[tuple[str, list[Panel]]]:
    """Rows of a grid: the test point with the list of each method."""
    raw, _, label = context.held_out.item(position)
    test = Panel(np.asarray(raw), f"test: {context.explainer.classifier.class_names[label]}")
    nothing = [Panel(None, "no influence")]
    return [(name, [test, *(map(_panel, of) if of else nothing)]) for name, of in lists.items()]


def _panel(influence: Influence) -> Panel:
    with Image.open(io.BytesIO(influence.thumbnail)) as image:
        pixels: Any = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    return Panel(pixels, f"{influence.label} {influence.score:+.2g}")


def same_label(lists: Sequence[Mapping[str, Sequence[Influence]]], labels: Sequence[int], name: str) -> float:
    """Share of listed examples that have the label of their test point."""
    pairs = [(each.class_id, label) for of, label in zip(lists, labels, strict=True) for each in of[name]]
    return sum(own == label for own, label in pairs) / len(pairs) if pairs else 0.0


def distinct(lists: Sequence[Mapping[str, Sequence[Influence]]], name: str) -> float:
    """Different examples over all that are listed: 1 where no example is named for two test points."""
    names = [each.example_id for of in lists for each in of[name]]
    return len(set(names)) / len(names) if names else 0.0
