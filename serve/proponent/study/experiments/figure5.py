"""Figure 5: the top 3 by IF and RelatIF for a 3 and an 8, logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from proponent.audit.scoring import AuditContext
from proponent.results import Influence
from proponent.study.drawing import grid
from proponent.study.listing import distinct, panels, same_label, strongest
from proponent.study.models import logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both, interval
from proponent.study.workbench import Workbench

DIGITS = (3, 8)
PAPERS = ("IF", "RelatIF")
"""The methods that the paper compares."""
SETTING = """The logistic regression of Table 1 without weight decay. The top 3 by |I| of IF and theta-RelatIF,
and the 3 proponents of DIVINE (sum-redundancy, gamma 1), for the first held-out 3 and the first 8. The table
counts over the first {queries} held-out examples; "different" is the share of listed examples that no other
list has named before. "Nearer than their class" is the mean distance (of pixels, 0 to 1 each) from a test point to
the training examples of its label, less that to those which are listed, with its 95 % interval over test points."""


def run(bench: Workbench) -> Outcome:
    """Draws both lists, and counts what they hold over many test points."""
    context = logistic_regression(bench, 0.0)
    means = bench.step("lists", counted, context, bench.of(300, 20))
    return Outcome(
        setting=SETTING.format(queries=bench.of(300, 20)),
        columns=["method", "listed examples of the test point's label", "nearer than their class", "different"],
        rows=[
            [name, f"{of['label']:.1%}", _signed(of["nearer"]), f"{of['distinct']:.1%}"] for name, of in means.items()
        ],
        paragraph=_paragraph(means),
        claims=[_claim(means)],
        pictures={f"digit{digit}": _picture(context, digit) for digit in DIGITS},
        values={name: {key: of[key] for key in ("label", "distinct", "opponents")} for name, of in means.items()},
    )


def counted(context: AuditContext, queries: int) -> dict[str, dict[str, Any]]:
    """By method: shares of listed examples with the test point's label and of different ones, and how near."""
    positions = list(range(queries))
    lists = strongest(context, positions)
    labels = [context.held_out.item(position)[2] for position in positions]
    return {
        name: {
            "label": same_label(lists, labels, name),
            "label of each": [same_label([of], [label], name) for of, label in zip(lists, labels, strict=True)],
            "nearer": nearer(context, lists, name),
            "distinct": distinct(lists, name),
            "opponents": opponents_of_other_labels(lists, labels, name),
        }
        for name in lists[0]
    }


def nearer(context: AuditContext, lists: Sequence[Mapping[str, Sequence[Influence]]], name: str) -> list[float]:
    """How much nearer to each test point the listed examples of its label are than all of that label.

    Test points with none listed are left out.
    """
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(range(len(lists)))
    places = {context.data.example_id(place): place for place in range(len(context.data))}
    distances = torch.cdist(asked.tensor.flatten(1), train.tensor.flatten(1))
    found = []
    for of, row, label in zip(lists, distances, asked.labels.tolist(), strict=True):
        if own := [places[each.example_id] for each in of[name] if each.class_id == label]:
            found.append(float(row[train.labels == label].mean() - row[own].mean()))
    return found


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


def understood(of: Mapping[str, Any]) -> bool | None:
    """Whether most of what is listed has the test point's label, and lies nearer to it than others of the label."""
    return both(above(of["label of each"], 0.5), above(of["nearer"]))


def _claim(means: Mapping[str, Any]) -> Claim:
    told = "; ".join(
        f"{name} {interval(of['label of each'])[0]:.0%} of the test point's label, nearer to it than others of it "
        f"by {_signed(of['nearer'])}, {of['distinct']:.0%} different"
        for name, of in means.items()
        if name in PAPERS
    )
    return Claim(
        "with an exact Hessian both methods return points that a reader understands",
        "by eye",
        told,
        both(*(understood(means[name]) for name in PAPERS)),
        "understanding is replaced by what can be counted: of both methods most must be of the test point's label, "
        "and these must look more like the test point than others of the label do; lists by |I| hold opponents too",
    )


def _signed(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:+.2f} ± {half:.2f}"


def _paragraph(means: dict[str, Any]) -> str:
    label, other, against = (
        {name: f"{of[key]:.0%}" for name, of in means.items()} for key in ("label", "distinct", "opponents")
    )
    return (
        f"{label['IF']} of what IF lists has the label of the test point, {label['RelatIF']} of what RelatIF lists. "
        f"Of the others {against['IF']} (IF) and {against['RelatIF']} (RelatIF) are opponents: the lists are by |I|. "
        f"IF names {other['IF']} different examples, RelatIF {other['RelatIF']}."
    )
