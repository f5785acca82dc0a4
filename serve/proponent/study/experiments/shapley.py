"""Data Shapley: closed form for nearest neighbours on the embedding, with truncated Monte Carlo as its check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from torch.nn.functional import normalize

from proponent.attribution.agreement import roc_auc, spearman
from proponent.attribution.shapley import knn_shapley, truncated_monte_carlo
from proponent.audit.intervals import DRAWS, auc_interval
from proponent.audit.label_noise import flipped_positions
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.rebuild.retraining import trained_on
from proponent.spec import Factory
from proponent.study.drawing import BLUE, ORANGE
from proponent.study.embeddings import embeddings
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import Ends, both, exceeds
from proponent.study.workbench import Workbench
from proponent.training.loop import accuracy
from proponent.training.presets import PRESETS

NOISE, NEIGHBOURS = 0.15, 5
RELIABLE, AGREES = 0.5, 0.8
"""Least reliability of the Monte Carlo that decides anything, and the least agreement that counts as one."""
_LEAST = 0.1
"""Of ceilings that are divided by."""
SETTING = """{players} of scikit-learn's digits, {flipped} of them with a wrong label, logistic regression
(weight decay 0.01, L-BFGS). Truncated Monte Carlo: the utility is the accuracy on {queries} held-out examples,
{orders} random orders, cut off within 0.01 of the accuracy of all. KNN-Shapley: 5 neighbours, exact in closed
form, once by the products of the embeddings' directions (at true labels) and once by pixels. Influence: the sum
over the same held-out examples. Values are compared by rank with the Monte Carlo's, and by how well low values
find the wrong labels (area under the ROC curve)."""


def run(bench: Workbench) -> Outcome:
    """Values each example in four ways."""
    queries, orders = bench.of(100, 30), bench.of(24, 2)
    context, flipped = _context(bench)
    orders_drawn = [
        bench.step(f"order-{number}", _order, context, queries, number)
        for number in bench.track("orders", range(orders), orders)
    ]
    drawn = torch.tensor([order["contributions"] for order in orders_drawn], dtype=torch.float64)
    values = _values(context, queries, drawn)
    truth = torch.zeros(len(context.data), dtype=torch.bool)
    truth[flipped] = True
    monte = torch.tensor(values["truncated Monte Carlo"], dtype=torch.float64)
    found = {}
    for name in NAMES:
        of = torch.tensor(values[name], dtype=torch.float64)
        low, high = auc_interval(roc_auc, -of, truth)
        least, most = agreement_ends(of, drawn)
        found[name] = {"rank": float(spearman(of, monte)), "auc": roc_auc(-of, truth), "low": low, "high": high}
        found[name] |= {"agrees from": least, "agrees to": most}
    return Outcome(
        setting=SETTING.format(players=len(truth), flipped=len(flipped), queries=queries, orders=orders),
        columns=["value", "rank correlation with Monte Carlo", "finds wrong labels (AUC)", "95 % interval"],
        rows=[
            [name, f"{of['rank']:.3f}", f"{of['auc']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}"]
            for name, of in found.items()
        ],
        paragraph=_paragraph(found, values["halves"], sum(order["trainings"] for order in orders_drawn)),
        claims=[_claim(found, values["halves"])],
        pictures={"shapley": _picture(values, truth)},
        values={**found, "halves": values["halves"]},
    )


NAMES = ("truncated Monte Carlo", "KNN-Shapley, embedding", "KNN-Shapley, pixels", "summed influence")


def _context(bench: Workbench) -> tuple[AuditContext, list[int]]:
    """The index of a model trained with wrong labels, and where these are."""
    limit = bench.of(100, 40)
    digits = PRESETS["digits"].dataset
    noise = {"factory": digits.factory, "kwargs": {"limit": limit}, "classes": 10, "fraction": NOISE, "seed": 0}
    preset = replace(
        PRESETS["digits"],
        dataset=Factory(factory="proponent.audit.label_noise:flip", kwargs=noise),
        training={"optimizer": "lbfgs", "epochs": 40},
    )
    return bench.opened("digits-noisy", preset), flipped_positions(limit, NOISE, seed=0)


def _order(context: AuditContext, queries: int, number: int) -> dict[str, Any]:
    """Marginal contributions of all examples in one random order, and how many trainings they took."""
    trainings = 0
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(range(queries))
    spec = context.explainer.classifier.spec

    def utility(players: Sequence[int]) -> float:
        """Accuracy of a model trained on some examples; without any, that of guessing."""
        nonlocal trainings
        if not players:
            return 1 / len(spec.class_names)
        trainings += 1
        few = train.at(list(players))
        return accuracy(trained_on(spec, few, 0), asked.tensor, asked.labels)

    [contributions] = truncated_monte_carlo(utility, len(train.labels), 1, tolerance=0.01, seed=number).tolist()
    return {"contributions": contributions, "trainings": trainings}


def _values(context: AuditContext, queries: int, contributions: torch.Tensor) -> dict[str, Any]:
    """Each example's value in four ways, and how well halves of the Monte Carlo's orders [R, N] agree."""
    positions = list(range(queries))
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(positions)
    rows, questions = (normalize(each, dim=1) for each in embeddings(context, positions))
    pixels = -torch.cdist(asked.tensor.flatten(1), train.tensor.flatten(1))
    found = {
        "truncated Monte Carlo": contributions.mean(dim=0),
        "KNN-Shapley, embedding": knn_shapley(questions @ rows.mT, train.labels, asked.labels, NEIGHBOURS),
        "KNN-Shapley, pixels": knn_shapley(pixels, train.labels, asked.labels, NEIGHBOURS),
        "summed influence": influence_matrix(context, positions).sum(dim=0),
    }
    halves = float(spearman(*_halves(contributions)))
    return {**{name: values.tolist() for name, values in found.items()}, "halves": halves}


def _halves(contributions: torch.Tensor) -> list[torch.Tensor]:
    """Values [N] by every other order of contributions [R, N], and by the rest."""
    return [contributions[part::2].mean(dim=0) for part in (0, 1)]


def _claim(found: dict[str, dict[str, float]], halves: float) -> Claim:
    closed = found["KNN-Shapley, embedding"]
    return Claim(
        "Data Shapley values examples without computing parameters (Ghorbani & Zou 2019)",
        "reviewed, not run",
        f"KNN-Shapley on the embedding agrees with Monte Carlo at rank correlation {closed['rank']:.2f} of at most "
        f"{ceiling(halves):.2f}: {closed['agrees from']:.2f} to {closed['agrees to']:.2f} of it. It finds wrong "
        f"labels with AUC {closed['auc']:.2f}, {closed['low']:.2f} to {closed['high']:.2f} (Monte Carlo "
        f"{found['truncated Monte Carlo']['auc']:.2f})",
        valued(closed, halves),
        f"must agree at {AGREES} or more of what the noise of the Monte Carlo leaves, by the interval over examples, "
        f"and find wrong labels better than chance. Halves of the Monte Carlo's orders agree at {halves:.2f}, which "
        f"makes the mean of all {reliability(halves):.2f} reliable; below {RELIABLE} nothing would be decided",
    )


def valued(of: Mapping[str, float], halves: float) -> bool | None:
    """Whether values agree with the Monte Carlo's and find wrong labels; None where the Monte Carlo is noise."""
    if reliability(halves) < RELIABLE:
        return None
    return both(exceeds((of["agrees from"], of["agrees to"]), AGREES), exceeds((of["low"], of["high"]), 0.5))


def reliability(halves: float) -> float:
    """Share of the truth in the variance of a mean whose two halves correlate so (Spearman-Brown)."""
    return max(0.0, 2 * halves / (1 + halves))


def ceiling(halves: float) -> float:
    """The correlation that the truth itself would have with such a mean."""
    return sqrt(reliability(halves))


def agreement_ends(values: torch.Tensor, contributions: torch.Tensor) -> Ends:
    """95 % interval of the rank correlation with a Monte Carlo over its ceiling, for other examples (bootstrap)."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(DRAWS):
        drawn = torch.randint(len(values), (len(values),), generator=generator)
        orders = contributions[:, drawn]
        rank, halves = spearman(values[drawn], orders.mean(dim=0)), spearman(*_halves(orders))
        found.append(float(rank) / max(_LEAST, ceiling(float(halves))))
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def _paragraph(found: dict[str, dict[str, float]], halves: float, trainings: int) -> str:
    told = "; ".join(f"{name} {of['rank']:.2f} and {of['auc']:.2f}" for name, of in found.items())
    return (
        f"Rank correlation with Monte Carlo, and AUC for wrong labels: {told}. Two halves of the Monte Carlo's "
        f"orders agree at {halves:.2f}. The closed form costs a sort; the Monte Carlo {trainings:,} trainings."
    )


def _picture(values: dict[str, Any], truth: torch.Tensor) -> Picture:
    monte = torch.tensor(values["truncated Monte Carlo"])
    with drawing():
        figure = new_figure(8.4, 3)
        for axes, name in zip(figure.subplots(1, 3), NAMES[1:], strict=True):
            of = torch.tensor(values[name])
            for is_wrong, colour, label in ((False, BLUE, "right label"), (True, ORANGE, "wrong label")):
                axes.scatter(monte[truth == is_wrong], of[truth == is_wrong], s=12, color=colour, label=label)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("Monte Carlo", fontsize=8)
            axes.tick_params(labelsize=7)
        figure.axes[0].legend(fontsize=7)
    return Picture(
        figure, "Values by KNN-Shapley and influence on those of truncated Monte Carlo; wrong labels apart"
    )
