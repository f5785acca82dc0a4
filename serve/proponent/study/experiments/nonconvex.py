"""Section 5: what non-convexity does to influence, from one parameter to networks; and figure 2's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
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
from proponent.study.retraining import left_out, losses_after
from proponent.study.verdicts import both, exceeds, opposite
from proponent.study.workbench import Workbench

SETTING = """First figure: a risk of one parameter with two minima, the sum of n = 20 losses, with and without
one of them. Table: digits of scikit-learn ({examples} training examples). {removals} training points are
left out one at a time (those of largest mean |I|): the model is trained again from the same initialisation, with
the same batches in the same order, in which the point's loss counts 0. The changes of the losses of {queries} test
points, means over {seeds} seeds of the training, are compared with I/n. Logistic regression is trained to its
minimum (exact Hessian), the perceptrons by SGD (EK-FAC). Intervals are those of other test points and other points
(both drawn again). The noise is the squared standard error of the real changes over the seeds, as a share of their
mean square; from it follows the best correlation that any prediction could reach. Influence is called accurate
where its correlation is above {accurate} of that, and nothing is decided where noise is more than half."""
DEPTHS = (1, 2, 4)
ACCURATE = 0.9
"""Least share of the best correlation that could be reached."""
NOISE = 0.5
"""Largest share of noise in the mean square of the changes by which anything is decided."""


def run(bench: Workbench) -> Outcome:
    """Removes points from a convex model and from networks."""
    removals, queries, seeds = bench.of(10, 2), bench.of(30, 6), bench.of(6, 2)
    models = {"logistic regression": exact_digits(bench)}
    for depth in bench.of(DEPTHS, DEPTHS[:1]):
        models[f"{depth} hidden"] = bench.opened_of(perceptron(bench, depth))
    found = {}
    for name, context in models.items():
        scores = influence_matrix(context, list(range(queries)))
        points = scores.abs().mean(dim=0).topk(removals).indices.tolist()
        real = [
            bench.step(f"{name}-{seed}".replace(" ", "-"), _changes, context, points, queries, seed)
            for seed in bench.track(name, range(seeds), seeds)
        ]
        found[name] = compared(scores[:, points].mT / len(context.data), torch.tensor(real, dtype=torch.float64))
    rows = [
        [name, f"{of['pearson']:.3f}", f"{of['low']:.2f} to {of['high']:.2f}", *(f"{of[key]:.3f}" for key in _REST)]
        for name, of in found.items()
    ]
    size = f"{len(context.data):,}"
    return Outcome(
        setting=SETTING.format(examples=size, removals=removals, queries=queries, seeds=seeds, accurate=ACCURATE),
        columns=["model", "correlation", "95 % interval", "best possible", "rank correlation", "slope", "noise"],
        rows=rows,
        paragraph=_paragraph(found),
        claims=_claims(found),
        pictures={"minima": _minima(), "nonconvex": _scatter(found), "activations": _activations()},
        values={name: {k: v for k, v in of.items() if k != "points"} for name, of in found.items()},
    )


_REST = ("best", "spearman", "slope", "noise")


def _changes(context: AuditContext, points: Sequence[int], queries: int, seed: int) -> list[list[float]]:
    """What leaving out each point changes of the losses of the test points, [P][Q], in one training each."""
    examples = context.data.batch(range(len(context.data)))
    whole, *less = (
        torch.tensor(losses_after(context, left_out(examples, removed), queries, seed), dtype=torch.float64)
        for removed in ([], *([point] for point in points))
    )
    changes: list[list[float]] = (torch.stack(less) - whole).tolist()
    return changes


def compared(predicted: Tensor, trainings: Tensor) -> dict[str, Any]:
    """Agreement of predicted changes [P, Q] with the mean of real ones over seeds [S, P, Q], and the mean's noise."""
    real, guess = trainings.mean(dim=0), predicted.flatten()
    truth = real.flatten()
    noise = min(1.0, float((trainings.var(dim=0) / len(trainings)).mean() / truth.square().mean()))
    low, high = two_way_interval(_correlation, predicted, real, correlation=True)
    return {
        "pearson": float(pearson(guess, truth)),
        "low": low,
        "high": high,
        "best": sqrt(1 - noise),
        "spearman": float(spearman(guess, truth)),
        "slope": float((guess @ truth) / (guess @ guess)),
        "noise": noise,
        "points": [guess.tolist(), truth.tolist()],
    }


def accurate(of: Mapping[str, float]) -> bool | None:
    """Whether influence predicts the changes; None where noise, or too few points, leave it open."""
    return None if of["noise"] > NOISE else exceeds((of["low"], of["high"]), ACCURATE * of["best"])


def _correlation(predicted: Tensor, real: Tensor) -> Tensor:
    return pearson(predicted.flatten(), real.flatten())


def falls(found: Sequence[Mapping[str, float]]) -> bool | None:
    """Whether correlations fall from each model to the next; None where some of their intervals meet, or by noise."""
    pairs = list(pairwise(found))
    if not pairs or any(of["noise"] > NOISE for of in found):
        return None
    if any(later["low"] > earlier["high"] for earlier, later in pairs):
        return False
    return True if all(later["high"] < earlier["low"] for earlier, later in pairs) else None


def _claims(found: dict[str, Any]) -> list[Claim]:
    convex, *others = found.values()
    told = ", ".join(f"{_shown(of)} with {name}" for name, of in list(found.items())[1:])
    each = {True: "accurate", False: "inaccurate", None: "not decided"}
    judged = ", ".join(f"{name} {each[accurate(of)]}" for name, of in found.items())
    return [
        Claim(
            "influence is inaccurate where the loss is not convex (section 5)",
            "after Basu et al. (2020a), no figure",
            f"correlation {_shown(convex)} for logistic regression; {told}",
            both(accurate(convex), *(opposite(accurate(of)) for of in others)),
            f"holds where it is accurate of logistic regression and of no network, and fails by one network of which "
            f"it is: {judged}. The batches keep their order: another order changes a loss more than a removal does",
        ),
        Claim(
            "the more so the deeper the network (section 5)",
            "after Basu et al. (2020a), no figure",
            told,
            falls(others),
            "decided where no two intervals of neighbouring depths meet and noise is at most half; how "
            "faithful scores are to models trained on halves is judged by the trend in the experiment on depth",
        ),
    ]


def _shown(of: Mapping[str, float]) -> str:
    return f"{of['pearson']:.2f} ({of['low']:.2f} to {of['high']:.2f}, noise {of['noise']:.0%})"


def _paragraph(found: dict[str, Any]) -> str:
    told = "; ".join(f"{name} {_shown(of)}" for name, of in found.items())
    return (
        f"Correlation of predicted and real changes: {told}. Where noise is more than half, the effect of "
        "a removal changes with the seed of the training by more than means over these seeds leave of it: what one "
        "removal does to such a network is then hardly a property of the point."
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
