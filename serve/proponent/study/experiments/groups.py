"""The second-order effect of removing groups, against retraining."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from statistics import mean
from typing import Any

import torch

from proponent.attribution.agreement import pearson
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.options import Estimator, Target
from proponent.study.drawing import BLUE, GREEN, GREY, ORANGE
from proponent.study.models import exact_digits
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.retraining import losses_without
from proponent.study.verdicts import above
from proponent.study.workbench import Workbench

SHARES = (0.01, 0.05, 0.2, 0.4)
KINDS = ("random", "one class", "most influential")
LINEAR = 0.05
"""Largest change of the loss that the figure shows on a linear scale."""
TICKS = (-0.1, 0, 0.1, 1, 10)
ESTIMATORS = {
    "sum of influences": Estimator.INFLUENCE_SUM,
    "first order": Estimator.FIRST_ORDER,
    "second order": Estimator.SECOND_ORDER,
}
SETTING = """Logistic regression on scikit-learn's digits ({examples} training examples, weight decay 0.01,
exact Hessian). Groups of 1, 5, 20 and 40 % of the training set are removed and the model is trained to its
minimum again: drawn at random, from one class (as far as it goes), and the most influential for a test point.
Predicted and real changes of the loss of {queries} test points are compared. The sum is equation 5 for every
member; first order also counts that the mean is then taken over fewer; second order is that of Basu et al.
(2020b)."""


def run(bench: Workbench) -> Outcome:
    """Removes each group and compares."""
    context = exact_digits(bench)
    queries = bench.of(8, 2)
    base = bench.step("whole", losses_without, context, [], queries)
    groups = [(kind, share) for kind in KINDS for share in bench.of(SHARES, SHARES[1:3])]
    found = {
        f"{kind}, {share:.0%}": bench.step(f"{kind}-{share}".replace(" ", "-"), _compared, context, kind, share, base)
        for kind, share in bench.track("groups", groups, len(groups))
    }
    rows, values = [], {}
    for name in ESTIMATORS:
        told = []
        for share in sorted({share for _, share in groups}):
            pairs = [of for group, of in found.items() if group.endswith(f" {share:.0%}")]
            values[f"{name}, {share:.0%}"] = _agreement(pairs, name)
            told.append("{correlation:.3f}, slope {slope:.2f}".format(**values[f"{name}, {share:.0%}"]))
        rows.append([name, *told])
    return Outcome(
        setting=SETTING.format(examples=f"{len(context.data):,}", queries=queries),
        columns=["estimator", *(f"{share:.0%} removed" for share in sorted({share for _, share in groups}))],
        rows=rows,
        paragraph=_paragraph(values),
        claims=[_claim(values)],
        pictures={"groups": _picture(found)},
        values=values,
    )


def _members(context: AuditContext, kind: str, share: float) -> list[int]:
    size = round(share * len(context.data))
    if kind == "most influential":
        return influence_matrix(context, [0])[0].topk(size).indices.tolist()
    order = torch.randperm(len(context.data), generator=torch.Generator().manual_seed(size))
    if kind == "one class":
        labels = context.data.batch(range(len(context.data))).labels[order]
        order = order[labels == context.held_out.item(0)[2]]
    return order[:size].tolist()


def _compared(context: AuditContext, kind: str, share: float, base: list[float]) -> dict[str, list[float]]:
    members = _members(context, kind, share)
    names = [context.data.example_id(member) for member in members]
    after = losses_without(context, members, len(base))
    found = {"real": [new - old for new, old in zip(after, base, strict=True)]}
    for name, estimator in ESTIMATORS.items():
        found[name] = [
            context.explainer.estimate_removal(value, Target(label), names, estimator=estimator).loss_change
            for _, value, label in map(context.held_out.item, range(len(base)))
        ]
    return found


def _agreement(pairs: list[dict[str, list[float]]], name: str) -> dict[str, Any]:
    guess, truth = (torch.tensor([v for of in pairs for v in of[key]], dtype=torch.float64) for key in (name, "real"))
    slope = float((guess @ truth) / (guess @ guess))
    return {"correlation": float(pearson(guess, truth)), "slope": slope, "errors": (guess - truth).abs().tolist()}


def is_better(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether one estimator's errors are smaller than another's, by the mean logarithm of their ratios."""
    return above([log(second / first) for first, second in zip(one["errors"], other["errors"], strict=True)])


def _claim(values: dict[str, dict[str, Any]]) -> Claim:
    large = max((name.split(", ")[1] for name in values), key=lambda share: float(share.rstrip("%")))
    first, second = (values[f"{name}, {large}"] for name in ("first order", "second order"))
    return Claim(
        "for large groups a second-order approximation is needed (Basu et al. 2020b)",
        "reviewed, not run",
        f"{large} removed: first order correlation {first['correlation']:.3f}, slope {first['slope']:.2f}; "
        f"second order {second['correlation']:.3f}, {second['slope']:.2f}",
        is_better(second, first),
        "the curvature changes with the group, which only the second order counts; decided by the ratio of both "
        "errors, group by group and test point by test point, in which small changes count as much as large ones: "
        f"the mean absolute errors are {mean(first['errors']):.2f} and {mean(second['errors']):.2f}",
    )


def _paragraph(values: dict[str, dict[str, Any]]) -> str:
    told = "; ".join(f"{name}: {of['correlation']:.3f}, {of['slope']:.2f}" for name, of in values.items())
    return f"Correlation, and slope of the real on the predicted change (1 is right): {told}."


def _picture(found: dict[str, dict[str, Any]]) -> Picture:
    with drawing():
        figure = new_figure(8, 3)
        for axes, (name, colour) in zip(
            figure.subplots(1, 3), zip(ESTIMATORS, (BLUE, ORANGE, GREEN), strict=True), strict=True
        ):
            guess, truth = ([v for of in found.values() for v in of[key]] for key in (name, "real"))
            axes.plot([min(truth), max(truth)], [min(truth), max(truth)], color=GREY, linewidth=1)
            axes.scatter(guess, truth, s=10, color=colour, alpha=0.7, linewidths=0)
            axes.set_xscale("symlog", linthresh=LINEAR)
            axes.set_yscale("symlog", linthresh=LINEAR)
            axes.set(xticks=TICKS, xticklabels=TICKS, yticks=TICKS, yticklabels=TICKS)
            axes.minorticks_off()
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("predicted change of loss", fontsize=8)
            axes.tick_params(labelsize=7)
        figure.axes[0].set_ylabel("real change of loss", fontsize=8)
    what = "Real changes of the loss after removing groups, on those predicted by three estimators"
    return Picture(figure, f"{what}; linear up to {LINEAR:g}, logarithmic beyond")
