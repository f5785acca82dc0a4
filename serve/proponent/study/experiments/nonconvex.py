"""Section 5: what non-convexity does to influence, from one parameter to networks; and figure 2's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.agreement import pearson, spearman
from proponent.audit.intervals import two_way_interval
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.models import exact_digits, perceptron
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.retraining import losses_without
from proponent.study.workbench import Workbench

SETTING = """First figure: a risk of one parameter with two minima, the sum of n = 20 losses, with and without
one of them. Table: digits of scikit-learn ({examples} training examples). {removals} training points are
removed one at a time, the model is trained again from the same initialisation with the same seed, and the
changes of the losses of {queries} test points are compared with I/n. Logistic regression is trained to its
minimum (exact Hessian), the perceptrons by SGD (EK-FAC). Intervals are those of other test points and other
points removed (both drawn again). The noise beside them is what another seed changes without any removal."""
DEPTHS = (1, 2, 4)


def run(bench: Workbench) -> Outcome:
    """Removes points from a convex model and from networks."""
    removals, queries = bench.of(10, 2), bench.of(30, 6)
    models = {"logistic regression": exact_digits(bench)}
    for depth in bench.of(DEPTHS, DEPTHS[:1]):
        models[f"{depth} hidden"] = bench.opened_of(perceptron(bench, depth))
    found = {}
    for name, context in models.items():
        found[name] = bench.step(name.replace(" ", "-"), _compared, context, removals, queries)
    rows = [
        [name, f"{of['pearson']:.3f}", f"{of['low']:.2f} to {of['high']:.2f}", *(f"{of[key]:.3f}" for key in _REST)]
        for name, of in found.items()
    ]
    return Outcome(
        setting=SETTING.format(examples=f"{len(context.data):,}", removals=removals, queries=queries),
        columns=[
            "model",
            "correlation",
            "95 % interval",
            "rank correlation",
            "slope",
            "noise of the seed over the change by removal",
        ],
        rows=rows,
        paragraph=_paragraph(found),
        claims=_claims(found),
        pictures={"minima": _minima(), "nonconvex": _scatter(found), "activations": _activations()},
        values={name: {k: v for k, v in of.items() if k != "points"} for name, of in found.items()},
    )


_REST = ("spearman", "slope", "noise")


def _compared(context: AuditContext, removals: int, queries: int) -> dict[str, Any]:
    scores = influence_matrix(context, list(range(queries)))
    points = scores.abs().mean(dim=0).topk(removals).indices.tolist()
    base, other = (torch.tensor(losses_without(context, [], queries, seed), dtype=torch.float64) for seed in (0, 1))
    real = torch.tensor([losses_without(context, [point], queries) for point in points], dtype=torch.float64) - base
    predicted = scores[:, points].mT / len(context.data)
    guess, truth = predicted.flatten(), real.flatten()
    low, high = two_way_interval(_correlation, predicted, real, correlation=True)
    return {
        "pearson": float(pearson(guess, truth)),
        "low": low,
        "high": high,
        "spearman": float(spearman(guess, truth)),
        "slope": float((guess @ truth) / (guess @ guess)),
        "noise": float((other - base).norm() / real.square().mean(dim=0).sum().sqrt()),
        "points": [guess.tolist(), truth.tolist()],
    }


def _correlation(predicted: Tensor, real: Tensor) -> Tensor:
    return pearson(predicted.flatten(), real.flatten())


def falls(found: Sequence[Mapping[str, float]]) -> bool | None:
    """Whether correlations fall from each model to the next; None where some of their intervals meet."""
    pairs = list(pairwise(found))
    if any(later["low"] > earlier["high"] for earlier, later in pairs):
        return False
    return True if all(later["high"] < earlier["low"] for earlier, later in pairs) else None


def _claims(found: dict[str, Any]) -> list[Claim]:
    convex, *others = found.values()
    told = ", ".join(f"{of['pearson']:.2f} with {name}" for name, of in list(found.items())[1:])
    return [
        Claim(
            "influence is inaccurate where the loss is not convex (section 5)",
            "after Basu et al. (2020a), no figure",
            f"correlation {convex['pearson']:.2f} for logistic regression; {told}",
            True if all(of["high"] < convex["low"] for of in others) else None,
            "holds where every network's interval lies below that of logistic regression; one removal changes a "
            "network's loss less than another order of the same examples does",
        ),
        Claim(
            "the more so the deeper the network (section 5)",
            "after Basu et al. (2020a), no figure",
            told,
            falls(others),
            "decided where no two intervals of networks meet; the experiment on depth averages over many retrainings",
        ),
    ]


def _paragraph(found: dict[str, Any]) -> str:
    told = "; ".join(f"{name} {of['pearson']:.2f} (noise {of['noise']:.1f})" for name, of in found.items())
    return (
        f"Correlation of predicted and real changes: {told}. A noise above 1 means that retraining with another seed "
        "changes the losses more than removing the most influential examples does, so that one retraining cannot "
        "tell whether influence is right: averages over many retrainings can, see the experiment on depth."
    )


def losses_of_one_parameter(theta: Tensor) -> tuple[Tensor, Tensor]:
    """A risk of 20 losses [T], and the same without the last: its global minimum moves to another valley."""
    common = (theta**2 - 1) ** 2 / 4
    last = 1.2 * theta
    return (19 * common + last) / 20, (19 * common - 0.6 * theta) / 20


def _minima() -> Picture:
    theta = torch.linspace(-1.6, 1.6, 401, dtype=torch.float64)
    whole, less = losses_of_one_parameter(theta)
    with drawing():
        figure = new_figure(5.6, 3.4)
        axes = figure.subplots()
        for values, colour, name in ((whole, BLUE, "all 20 losses"), (less, ORANGE, "without one")):
            axes.plot(theta, values, color=colour, label=name)
            axes.scatter(theta[values.argmin()], values.min(), color=colour, zorder=3)
        start = float(theta[whole.argmin()])
        gradient = torch.tensor(1.2 / 20 + 0.6 / 20)
        curvature = 19 * (3 * start**2 - 1) / 20
        axes.axvline(start + float(gradient) / curvature, color=GREY, linestyle="--", label="minimum by equation 4")
        axes.set(xlabel="theta", ylabel="risk", title="two minima: the lower one changes valleys")
        axes.legend(fontsize=8)
    return Picture(figure, "A risk with two minima: without one loss the lower minimum lies in the other valley")


def _scatter(found: dict[str, Any]) -> Picture:
    with drawing():
        figure = new_figure(2.6 * len(found), 3)
        for axes, (name, of) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            guess, truth = of["points"]
            axes.scatter(guess, truth, s=8, color=BLUE, alpha=0.6, linewidths=0)
            ends = [min(guess), max(guess)]
            axes.plot(ends, ends, color=GREY, linewidth=1)
            axes.set_title(f"{name}\nr = {of['pearson']:.2f}", fontsize=9)
            axes.set_xlabel("predicted, I / n", fontsize=8)
            axes.ticklabel_format(style="sci", scilimits=(-3, 4))
            axes.tick_params(labelsize=7)
        figure.axes[0].set_ylabel("real change of loss", fontsize=8)
    return Picture(figure, "Real changes of the loss after removing one example, on predicted ones, by model")


def _activations() -> Picture:
    x = torch.linspace(-4, 4, 201)
    with drawing():
        figure = new_figure(4.4, 3)
        axes = figure.subplots()
        axes.plot(x, torch.nn.functional.silu(x), color="#b0203a", label="SiLU")
        axes.plot(x, torch.relu(x), color=BLUE, label="ReLU")
        axes.legend(fontsize=8)
    return Picture(figure, "SiLU and ReLU")
