"""By depth of the network: faithfulness, self-influence, and whether the examples listed are neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proponent.audit.intervals import two_way_interval
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.options import Measure
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.halves import Halves, score, scores_of, trained_halves
from proponent.study.models import NETWORKS, PERCEPTRON_EPOCHS, SHALLOW, cifar10_network, perceptron
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import both, ends, exceeds, opposite, slope
from proponent.study.workbench import Trained, Workbench

DEPTHS = (0, 1, 2, 4, 6)
TOP = 10
ALIKE = 0.01
"""Accuracies that differ by less leave depth alone as the cause."""
MEASURES = {"IF": Measure.INFLUENCE, "theta-RelatIF": Measure.THETA_RELATIF}
SETTING = """Perceptrons of {depths} hidden layers of 32 units on scikit-learn's digits ({examples} training
examples), SGD, {epochs} epochs, weight decay 0.001, EK-FAC. LDS: see the experiment on K-FAC, {halves} halves.
The other figures are those of the top 10 proponents of {queries} held-out examples: the share that has the test
point's label, that is among its ten nearest neighbours in pixels, and the share of different examples among all
that are listed. "Held by 1 %" is the share of all self-influence that the highest hundredth of the training
examples has.

The trends are slopes by least squares over all depths, by one hidden layer more: of the LDS with an interval for
other held-out examples and other halves, of the shares for other held-out examples; of one training of each depth.

Below them the networks of figures 9 to 11, on CIFAR-10. Their scores would take {halves} trainings more of each
network, which the shallow CNN alone affords here: one of {costly} takes {seconds:,.0f} s."""


def run(bench: Workbench) -> Outcome:
    """Trains, indexes and measures each depth."""
    count, queries = bench.of(16, 3), bench.of(100, 10)
    found: dict[str, dict[str, Any]] = {}
    losses = []
    for depth in bench.track("depths", bench.of(DEPTHS, (0, 2)), bench.of(len(DEPTHS), 2)):
        trained = perceptron(bench, depth)
        context = bench.opened_of(trained)
        halves = trained_halves(bench, trained, context, count, queries)
        found[str(depth)] = _of(bench, trained, context, queries, halves)
        losses.append(halves.losses.mT)
    networks = {}
    for name in bench.track("networks", NETWORKS, len(NETWORKS)):
        trained, deep = cifar10_network(bench, name)
        own = trained_halves(bench, trained, deep, count, queries) if name == SHALLOW else None
        networks[name] = _of(bench, trained, deep, queries, own)
    by_layer = trends(found, torch.stack(losses, dim=-1))
    return Outcome(
        setting=SETTING.format(
            depths=", ".join(found),
            examples=f"{len(context.data):,}",
            epochs=bench.of(PERCEPTRON_EPOCHS, 3),
            halves=count,
            queries=queries,
            costly=name,
            seconds=trained.cpu_seconds,
        ),
        columns=["hidden layers, or network", "accuracy", "LDS", "95 % interval", "held by 1 %", *_HEADS],
        rows=[_row(name, of) for name, of in {**found, **networks}.items()],
        paragraph=_paragraph(found),
        claims=_claims(found, by_layer),
        pictures={"depth": _picture(found)},
        values={**{name: _kept(of) for name, of in {**found, **networks}.items()}, "trends": by_layer},
    )


def _of(
    bench: Workbench, trained: Trained, context: AuditContext, queries: int, halves: Halves | None
) -> dict[str, Any]:
    """What is measured of a model; its score where it was trained on halves."""
    name = trained.spec.name
    scored = bench.step(f"{name}-lds", score, context, halves) if halves else {}
    return {
        "accuracy": trained.held_out_accuracy,
        **bench.step(name, _measured, context, min(queries, len(context.held_out))),
        **scored,
    }


SHARES = tuple(f"{kind} {name}" for name in MEASURES for kind in ("label", "neighbour"))
_COUNTS = tuple(f"{kind} {name}" for name in MEASURES for kind in ("label", "neighbour", "different"))
_HEADS = tuple(f"{name}: {kind}" for name in MEASURES for kind in ("label", "neighbours", "different"))


def _measured(context: AuditContext, queries: int) -> dict[str, Any]:
    positions = list(range(queries))
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(positions)
    nearest = torch.cdist(asked.tensor.flatten(1), train.tensor.flatten(1)).topk(TOP, largest=False).indices
    own = context.explainer.index.scales.self_influence.sort(descending=True).values
    found: dict[str, Any] = {"held": float(own[: max(1, len(own) // 100)].sum() / own.sum())}
    for name, measure in MEASURES.items():
        listed = influence_matrix(context, positions, measure).topk(TOP, dim=1).indices
        hits = {
            "label": train.labels[listed] == asked.labels[:, None],
            "neighbour": (listed[:, :, None] == nearest[:, None]).any(dim=2),
        }
        for kind, of in hits.items():
            shares = of.double().mean(dim=1)
            found[f"{kind} {name}"], found[f"each {kind} {name}"] = float(shares.mean()), shares.tolist()
        found[f"different {name}"] = len(set(listed.flatten().tolist())) / listed.numel()
    return found


def _kept(of: Mapping[str, Any]) -> dict[str, Any]:
    """What stands behind the table, without what stands behind it test point by test point."""
    return {key: value for key, value in of.items() if key != "predicted" and not key.startswith("each ")}


def _row(name: str, of: dict[str, Any]) -> list[str]:
    shares = [f"{of[key]:.0%}" for key in _COUNTS]
    scored = [f"{of['lds']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}"] if "lds" in of else ["not measured", ""]
    return [name, f"{of['accuracy']:.1%}", *scored, f"{of['held']:.0%}", *shares]


def trends(found: Mapping[str, Mapping[str, Any]], losses: Tensor) -> dict[str, dict[str, float]]:
    """What one hidden layer more changes, with intervals: of the LDS, and of the shares of each measure's lists.

    Args:
        found: By depth.
        losses: [Q, S, D], of the held-out examples by models trained on halves, of each depth.
    """
    depths = [float(depth) for depth in found]
    predicted = torch.tensor([of["predicted"] for of in found.values()]).permute(1, 2, 0)
    best = max(of["accuracy"] for of in found.values())
    alike = [place for place, of in enumerate(found.values()) if of["accuracy"] > best - ALIKE]
    result = {"LDS": _trend_of_scores(depths, predicted, losses)}
    if len(alike) > 1:
        some = [depths[place] for place in alike]
        result["LDS, accuracy alike"] = _trend_of_scores(some, predicted[..., alike], losses[..., alike])
    hidden = [place for place, depth in enumerate(depths) if depth]
    for key in SHARES:
        each = torch.tensor([of[f"each {key}"] for of in found.values()]).mT
        result[key] = _trend_of_shares(depths, each)
        if len(hidden) > 1:
            result[f"{key}, hidden"] = _trend_of_shares([depths[place] for place in hidden], each[:, hidden])
    return result


def _trend_of_shares(depths: Sequence[float], each: Tensor) -> dict[str, float]:
    return dict(zip(("low", "high"), ends(slope(depths, each).tolist()), strict=True))


def _trend_of_scores(depths: Sequence[float], predicted: Tensor, losses: Tensor) -> dict[str, float]:
    def of(left: Tensor, right: Tensor) -> Tensor:
        return slope(depths, scores_of(left, right))

    low, high = two_way_interval(of, predicted, losses, correlation=False)
    return {"low": low, "high": high}


def falls(trend: Mapping[str, float]) -> bool | None:
    """Whether a trend is downward; None where its interval holds zero."""
    return opposite(exceeds((trend["low"], trend["high"])))


def _claims(found: Mapping[str, Mapping[str, Any]], found_trends: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    def by_depth(key: str) -> str:
        return ", ".join(f"{of[key]:.2f}" if key == "lds" else f"{of[key]:.0%}" for of in found.values())

    told = {key: f"{of['low']:+.3f} to {of['high']:+.3f}" for key, of in found_trends.items()}
    shares = "; ".join(f"{key} {by_depth(key)} ({told[key]} a layer{_with_hidden(key, told)})" for key in SHARES)
    alike = told.get("LDS, accuracy alike", "too few")
    return [
        Claim(
            "the deeper the network, the less easy to understand are the points returned (section 7.3)",
            "by eye (figures 9 to 11)",
            f"{', '.join(found)} hidden layers: {shares}",
            both(*(falls(trend) for name, trend in found_trends.items() if name.startswith(SHARES))),
            "perceptrons on digits, not the paper's networks; understanding is replaced by class and neighbours, "
            "which can be counted, and all trends must be downward, over all depths and without the linear model. "
            f"Their accuracies are {by_depth('accuracy')}, so that depth is not their only difference",
        ),
        Claim(
            "the deeper the network, the less faithful are the scores (section 5)",
            "after Basu et al. (2020a), no figure",
            f"LDS {by_depth('lds')} with accuracies {by_depth('accuracy')}: {told['LDS']} a layer",
            falls(found_trends["LDS"]),
            f"decided by the trend over all depths, which need not be monotone; among those whose accuracy is within "
            f"{ALIKE:.0%} of the best: {alike} a layer",
        ),
    ]


def _with_hidden(key: str, told: Mapping[str, str]) -> str:
    hidden = told.get(f"{key}, hidden")
    return f", {hidden} without the linear model" if hidden else ""


def _paragraph(found: dict[str, dict[str, Any]]) -> str:
    told = "; ".join(
        f"{depth} hidden: LDS {of['lds']:.2f}, neighbours {of['neighbour IF']:.0%} (IF) and "
        f"{of['neighbour theta-RelatIF']:.0%} (RelatIF)"
        for depth, of in found.items()
    )
    return f"{told}. LDS says whether the scores are right, neighbours and labels whether a reader can see why."


def _picture(found: dict[str, dict[str, Any]]) -> Picture:
    depths = [int(depth) for depth in found]
    with drawing():
        figure = new_figure(9, 3.2)
        left, right = figure.subplots(1, 2)
        middle = [of["lds"] for of in found.values()]
        bars = [[of["lds"] - of["low"] for of in found.values()], [of["high"] - of["lds"] for of in found.values()]]
        left.errorbar(depths, middle, bars, marker="o", color=GREY, capsize=3)
        left.axhline(0, color=GREY, linewidth=0.8)
        left.set(xlabel="hidden layers", ylabel="datamodeling score")
        for name, colour in (("IF", BLUE), ("theta-RelatIF", ORANGE)):
            for kind, style in (("label", "-"), ("neighbour", "--"), ("different", ":")):
                values = [of[f"{kind} {name}"] for of in found.values()]
                right.plot(depths, values, style, marker="o", color=colour, label=f"{name}: {kind}", markersize=3)
        right.set(xlabel="hidden layers", ylabel="share of the top 10", ylim=(0, 1.02))
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(figure, "Datamodeling score, labels, neighbours and different examples by depth")
