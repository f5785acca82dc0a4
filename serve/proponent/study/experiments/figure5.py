"""Figure 5: the top 3 by IF and RelatIF for a 3 and an 8, logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proponent.audit.scoring import AuditContext
from proponent.results import Influence
from proponent.study.drawing import grid
from proponent.study.listing import distinct, panels, same_label, strongest
from proponent.study.models import logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.workbench import Workbench

DIGITS = (3, 8)
SETTING = """The logistic regression of Table 1 without weight decay. The top 3 by |I| of IF and theta-RelatIF,
and the 3 proponents of DIVINE (sum-redundancy, gamma 1), for the first held-out 3 and the first 8. The table
counts over the first {queries} held-out examples; "different" is the share of listed examples that no other
list has named before."""


def run(bench: Workbench) -> Outcome:
    """Draws both lists, and counts what they hold over many test points."""
    context = logistic_regression(bench, 0.0)
    means = bench.step("lists", counted, context, bench.of(300, 20))
    return Outcome(
        setting=SETTING.format(queries=bench.of(300, 20)),
        columns=["method", "listed examples of the test point's label", "different"],
        rows=[[name, f"{of['label']:.1%}", f"{of['distinct']:.1%}"] for name, of in means.items()],
        paragraph=_paragraph(means),
        claims=[_claim(means)],
        pictures={f"digit{digit}": _picture(context, digit) for digit in DIGITS},
        values=means,
    )


def counted(context: AuditContext, queries: int) -> dict[str, dict[str, float]]:
    """By method: the share of listed examples with the test point's label, and of different ones."""
    positions = list(range(queries))
    lists = strongest(context, positions)
    labels = [context.held_out.item(position)[2] for position in positions]
    return {
        name: {
            "label": same_label(lists, labels, name),
            "distinct": distinct(lists, name),
            "opponents": opponents_of_other_labels(lists, labels, name),
        }
        for name in lists[0]
    }


def opponents_of_other_labels(
    lists: Sequence[Mapping[str, Sequence[Influence]]], labels: Sequence[int], name: str
) -> float:
    """Share of the listed examples of another label than the test point's whose score is negative; 1 without any."""
    others = [each for of, label in zip(lists, labels, strict=True) for each in of[name] if each.class_id != label]
    return sum(each.score < 0 for each in others) / len(others) if others else 1.0


def _picture(context: AuditContext, digit: int) -> Picture:
    labels = (context.held_out.item(position)[2] for position in range(len(context.held_out)))
    position = next(place for place, label in enumerate(labels) if label == digit)
    [lists] = strongest(context, [position])
    caption = f"A {digit} and its three most influential training examples by IF, RelatIF and DIVINE"
    return Picture(grid(panels(context, position, lists)), caption)


def _claim(means: dict[str, Any]) -> Claim:
    return Claim(
        "with an exact Hessian both methods return points that a reader understands",
        "by eye",
        f"label of the test point: IF {means['IF']['label']:.0%}, RelatIF {means['RelatIF']['label']:.0%}; different "
        f"examples: {means['IF']['distinct']:.0%} and {means['RelatIF']['distinct']:.0%}",
        None,
        "what a reader understands was not measured; RelatIF names other examples for other test points more often",
    )


def _paragraph(means: dict[str, Any]) -> str:
    label, other, against = (
        {name: f"{of[key]:.0%}" for name, of in means.items()} for key in ("label", "distinct", "opponents")
    )
    return (
        f"{label['IF']} of what IF lists has the label of the test point, {label['RelatIF']} of what RelatIF lists. "
        f"Of the others {against['IF']} (IF) and {against['RelatIF']} (RelatIF) are opponents: the lists are by |I|. "
        f"IF names {other['IF']} different examples, RelatIF {other['RelatIF']}."
    )
