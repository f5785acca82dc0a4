"""By depth of the network: faithfulness, self-influence, and whether the examples listed are neighbours."""

from __future__ import annotations

from typing import Any

import torch

from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.options import Measure
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.halves import Halves, score, trained_halves
from proponent.study.models import NETWORKS, PERCEPTRON_EPOCHS, SHALLOW, cifar10_network, perceptron
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both
from proponent.study.workbench import Trained, Workbench

DEPTHS = (0, 1, 2, 4, 6)
TOP = 10
MEASURES = {"IF": Measure.INFLUENCE, "theta-RelatIF": Measure.THETA_RELATIF}
SETTING = """Perceptrons of {depths} hidden layers of 32 units on scikit-learn's digits ({examples} training
examples), SGD, {epochs} epochs, weight decay 0.001, EK-FAC. LDS: see the experiment on K-FAC, {halves} halves.
The other figures are those of the top 10 proponents of {queries} held-out examples: the share that has the test
point's label, that is among its ten nearest neighbours in pixels, and the share of different examples among all
that are listed. "Held by 1 %" is the share of all self-influence that the highest hundredth of the training
examples has.

Below them the networks of figures 9 to 11, on CIFAR-10. Their scores would take {halves} trainings more of each
network, which the shallow CNN alone affords here: one of {costly} takes {seconds:,.0f} s."""


def run(bench: Workbench) -> Outcome:
    """Trains, indexes and measures each depth."""
    count, queries = bench.of(16, 3), bench.of(100, 10)
    found: dict[str, dict[str, Any]] = {}
    for depth in bench.track("depths", bench.of(DEPTHS, (0, 2)), bench.of(len(DEPTHS), 2)):
        trained = perceptron(bench, depth)
        context = bench.opened_of(trained)
        halves = trained_halves(bench, trained, context, count, queries)
        found[str(depth)] = _of(bench, trained, context, queries, halves)
    networks = {}
    for name in bench.track("networks", NETWORKS, len(NETWORKS)):
        trained, deep = cifar10_network(bench, name)
        own = trained_halves(bench, trained, deep, count, queries) if name == SHALLOW else None
        networks[name] = _of(bench, trained, deep, queries, own)
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
        claims=[_claim(found)],
        pictures={"depth": _picture(found)},
        values={**found, **networks},
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


_COUNTS = tuple(f"{kind} {name}" for name in MEASURES for kind in ("label", "neighbour", "different"))
_HEADS = tuple(f"{name}: {kind}" for name in MEASURES for kind in ("label", "neighbours", "different"))


def _measured(context: AuditContext, queries: int) -> dict[str, Any]:
    positions = list(range(queries))
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(positions)
    nearest = torch.cdist(asked.tensor.flatten(1), train.tensor.flatten(1)).topk(TOP, largest=False).indices
    own = context.explainer.index.scales.self_influence.sort(descending=True).values
    found = {"held": float(own[: max(1, len(own) // 100)].sum() / own.sum())}
    for name, measure in MEASURES.items():
        listed = influence_matrix(context, positions, measure).topk(TOP, dim=1).indices
        found[f"label {name}"] = float((train.labels[listed] == asked.labels[:, None]).double().mean())
        shares = (listed[:, :, None] == nearest[:, None]).any(dim=2).double().mean(dim=1)
        found[f"neighbour {name}"] = float(shares.mean())
        found[f"different {name}"] = len(set(listed.flatten().tolist())) / listed.numel()
    return {**found, "neighbours of each": shares.tolist()}  # those of RelatIF, the last


def _row(name: str, of: dict[str, Any]) -> list[str]:
    shares = [f"{of[key]:.0%}" for key in _COUNTS]
    scored = [f"{of['lds']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}"] if "lds" in of else ["not measured", ""]
    return [name, f"{of['accuracy']:.1%}", *scored, f"{of['held']:.0%}", *shares]


def _claim(found: dict[str, dict[str, Any]]) -> Claim:
    first, last = (list(found.values())[place] for place in (0, -1))
    key = "neighbour theta-RelatIF"
    return Claim(
        "with deeper networks the points returned are not easy to understand for end users",
        "by eye (figures 9 to 11)",
        f"from {next(iter(found))} to {list(found)[-1]} hidden layers: neighbours in RelatIF's lists "
        f"{first[key]:.0%} to {last[key]:.0%}, label {first['label theta-RelatIF']:.0%} to "
        f"{last['label theta-RelatIF']:.0%}, LDS {first['lds']:.2f} to {last['lds']:.2f}",
        both(above(_fewer(last, first)), last["high"] < first["low"]),
        "perceptrons on digits, not the paper's networks; understanding is replaced by what can be counted; the "
        "intervals of the LDS must be apart, and the shares of neighbours, test point by test point",
    )


def _fewer(deep: dict[str, Any], shallow: dict[str, Any]) -> list[float]:
    """Neighbours that RelatIF's lists have less, test point by test point."""
    pairs = zip(shallow["neighbours of each"], deep["neighbours of each"], strict=True)
    return [one - other for one, other in pairs]


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
