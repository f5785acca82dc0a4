"""Equation 5 against retraining: the change of a test loss as one training point is weighted up and down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.agreement import pearson
from proponent.attribution.losses import get_loss
from proponent.audit.intervals import two_way_interval
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.models import exact_digits
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import both, exceeds, within
from proponent.study.workbench import Workbench
from proponent.training.lbfgs import minimise

WEIGHTS = (-1.0, -0.5, 1.0, 3.0, 10.0, 30.0)
"""Weights added to one training point, in units of 1/n; -1 removes it."""
LEAST, SLOPES = 0.95, (0.8, 1.25)
"""What passes for the change itself: the least correlation with it, and its slopes."""
ITERATIONS = 150
"""Of L-BFGS, from the minimum of equal weights."""
SETTING = """Logistic regression on scikit-learn's digits ({examples} training examples, weight decay 0.01),
trained to the minimum by L-BFGS in float64, exact Hessian. One training point at a time has its weight 1/n
changed by epsilon, the objective is minimised again, and the change of the loss of {queries} test points is
compared with equation 5, -I epsilon. The {removals} points are half those of largest mean |I|, half drawn at
random."""


def run(bench: Workbench) -> Outcome:
    """Retrains with every weight, and compares."""
    context = exact_digits(bench)
    queries = list(range(bench.of(20, 5)))
    points = _points(influence_matrix(context, queries), bench.of(12, 2))
    losses = [
        bench.step(f"point-{point}", _losses, context, queries, point)
        for point in bench.track("retrain", points, len(points))
    ]
    base = torch.tensor(bench.step("equal-weights", minimised, context, queries), dtype=torch.float64)
    real = torch.tensor(losses, dtype=torch.float64) - base  # [points, weights, queries]
    scores = influence_matrix(context, queries)[:, points].mT  # [points, queries]
    predicted = -scores[:, None] * torch.tensor(WEIGHTS)[:, None] / len(context.data)
    rows, values = _agreement(predicted, real)
    setting = SETTING.format(examples=f"{len(context.data):,}", queries=len(queries), removals=len(points))
    return Outcome(
        setting=setting,
        columns=["epsilon, in 1/n", "correlation", "slope of real on predicted", "largest real change"],
        rows=rows,
        paragraph=_paragraph(values),
        claims=_claims(values),
        pictures={"first_order": _picture(predicted, real)},
        values=values,
    )


def _points(scores: Tensor, count: int) -> list[int]:
    strongest = scores.abs().mean(dim=0).argsort(descending=True).tolist()
    rest = strongest[count // 2 :]
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
    return strongest[: count // 2] + [rest[place] for place in drawn[: count - count // 2]]


def _losses(context: AuditContext, queries: Sequence[int], point: int) -> list[list[float]]:
    """Losses of the queries for each weight of a point."""
    return [minimised(context, queries, point, weight) for weight in WEIGHTS]


def minimised(context: AuditContext, queries: Sequence[int], point: int = 0, weight: float = 0.0) -> list[float]:
    """Losses of the queries after the objective with one weight changed was minimised, from the old minimum."""
    classifier = context.explainer.classifier
    model = deepcopy(classifier.model).double()
    examples, asked = context.data.batch(range(len(context.data))), context.held_out.batch(queries)
    weights = torch.ones(len(examples.labels), dtype=torch.float64)
    weights[point] += weight
    per_example = get_loss("cross_entropy").per_example

    def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
        return per_example(outputs, labels) * weights

    minimise(model, examples.tensor.double(), examples.labels, weighted, classifier.spec.weight_decay, ITERATIONS)
    with torch.no_grad():
        losses: list[float] = per_example(model(asked.tensor.double()), asked.labels).tolist()
    return losses


def _correlation(predicted: Tensor, real: Tensor) -> Tensor:
    return pearson(predicted.flatten(), real.flatten())


def _slope(predicted: Tensor, real: Tensor) -> Tensor:
    """Of the real changes on the predicted ones, through 0."""
    return (predicted * real).sum() / predicted.square().sum()


def _agreement(predicted: Tensor, real: Tensor) -> tuple[list[list[str]], dict[str, dict[str, Any]]]:
    rows, values = [], dict[str, dict[str, Any]]()
    for place, weight in enumerate(WEIGHTS):
        guess, truth = predicted[:, place].flatten(), real[:, place].flatten()
        correlation, slope = float(pearson(guess, truth)), float(_slope(guess, truth))
        largest = float(truth.abs().max())
        values[f"{weight:g}"] = {
            "correlation": correlation,
            "correlation from to": two_way_interval(
                _correlation, predicted[:, place], real[:, place], correlation=True
            ),
            "slope": slope,
            "slope from to": two_way_interval(_slope, predicted[:, place], real[:, place], correlation=False),
            "largest": largest,
        }
        rows.append([f"{weight:+g}", f"{correlation:.4f}", f"{slope:.3f}", f"{largest:.2g}"])
    return rows, values


def gives_the_change(of: Mapping[str, Any]) -> bool | None:
    """Whether predicted changes are the real ones, by the intervals of correlation and slope."""
    return both(exceeds(of["correlation from to"], LEAST), within(of["slope from to"], *SLOPES))


def _claims(values: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    return [
        _claim("equation 5 gives the change of the loss where a point is removed (convex model)", values["-1"]),
        _claim(
            f"it also gives that of a point of {WEIGHTS[-1]:g} times its weight more (not claimed: it is of first "
            "order in epsilon)",
            values[f"{WEIGHTS[-1]:g}"],
        ),
    ]


def _claim(told: str, of: Mapping[str, Any]) -> Claim:
    shown = {key: "{:.3f} to {:.3f}".format(*of[f"{key} from to"]) for key in ("correlation", "slope")}
    return Claim(
        told,
        "an equation, no figure",
        f"correlation {of['correlation']:.3f} ({shown['correlation']}), slope {of['slope']:.3f} ({shown['slope']})",
        gives_the_change(of),
        f"the correlation must be above {LEAST}, the slope between {SLOPES[0]} and {SLOPES[1]}. The model is convex "
        "and at its minimum; what is missing is of second order in epsilon",
    )


def _paragraph(values: Mapping[str, Mapping[str, Any]]) -> str:
    near, far = values["-1"], values[f"{WEIGHTS[-1]:g}"]
    return (
        f"Removing a point (epsilon = -1/n) changes the losses as equation 5 says, with correlation "
        f"{near['correlation']:.3f} and slope {near['slope']:.3f}. With {WEIGHTS[-1]:g} times its weight more the "
        f"slope is {far['slope']:.3f}: a point weighted up is fitted better and loses its gradient."
    )


def _picture(predicted: Tensor, real: Tensor) -> Picture:
    with drawing():
        figure = new_figure(8, 3.6)
        left, right = figure.subplots(1, 2)
        place = WEIGHTS.index(-1.0)
        guess, truth = predicted[:, place].flatten(), real[:, place].flatten()
        ends = [float(torch.cat([guess, truth]).min()), float(torch.cat([guess, truth]).max())]
        left.plot(ends, ends, color=GREY, linewidth=1, label="equal")
        left.scatter(guess, truth, s=10, color=BLUE, alpha=0.6, linewidths=0, label="one point, one test point")
        left.set(xlabel="predicted by equation 5", ylabel="real (retrained)", title="a point removed")
        left.ticklabel_format(style="sci", scilimits=(-3, 4))
        _curves(right, predicted, real)
        for axes in (left, right):
            axes.legend(fontsize=8)
    return Picture(
        figure, "Change of the loss by equation 5 and after retraining: removals, and four points by weight"
    )


def _curves(axes: Any, predicted: Tensor, real: Tensor) -> None:
    """The strongest pair of four points: the line of equation 5, and what retraining gives."""
    epsilons = torch.tensor([*WEIGHTS[:2], 0.0, *WEIGHTS[2:]])
    zero = torch.zeros(1, dtype=torch.float64)
    for number in range(min(4, len(real))):
        query = int(real[number, -1].abs().argmax())
        for values, style, colour, name in (
            (predicted, "--", GREY, "equation 5"),
            (real, "o-", ORANGE, "retrained"),
        ):
            of = values[number, :, query].double()
            label = name if not number else None
            axes.plot(epsilons, torch.cat([of[:2], zero, of[2:]]), style, color=colour, markersize=3, label=label)
    axes.set(xlabel="epsilon, in 1/n", ylabel="change of the test loss", title="a point weighted up")
