"""Figures 9 to 11: a network on CIFAR-10, its lists by IF, RelatIF and DIVINE, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from proponent.attribution.gradients.layers import num_parameters
from proponent.audit.scoring import AuditContext
from proponent.results import Influence
from proponent.study.drawing import grid
from proponent.study.listing import distinct, panels, same_label, strongest
from proponent.study.models import NETWORKS, SHALLOW, cifar10_images, cifar10_network
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both, differences, interval
from proponent.study.workbench import Trained, Workbench

METHODS = ("IF", "RelatIF", "DIVINE")
PAPERS = ("IF", "RelatIF")
"""Those that the paper compares."""
LAST_LAYERS = "; its last layers alone are explained, whose gradients follow the label more than the picture"
SHOWN = 2
"""Test points of a figure."""
NEAREST = 10
SETTING = """{name} ({parameters:,} parameters) on the first {images} training images of CIFAR-10 (lossless, 32
x 32 pixels), trained by {optimizer} (learning rate {rate:g}, cosine schedule) for {epochs} epochs in batches of
{batch_size} without augmentation, which took {seconds:,.0f} s of one core; {accuracy:.1%} of the training
images and {held_out:.1%} of {others} held-out ones are classified rightly. The paper trains on all 50,000
images and tells neither epochs nor accuracy; so few images are what a study on a processor affords, and what is
said here is said of a network trained so. EK-FAC of {layers}. {score} Lists are the top 3 by |I| of IF and
theta-RelatIF, and the 3 proponents of DIVINE (sum-redundancy, gamma 1), of the first {queries} held-out images
at their true labels. Of the listed images the table tells the share that has the test image's class, that is
among its ten nearest neighbours in pixels, and that no other list has named before; intervals are over test
images, of one training. The figure shows the first held-out image of each of the first {shown} classes that
come."""


SCORED = "Its datamodeling score stands with the experiment on depth."
UNSCORED = """Its datamodeling score was not measured: that compares with many trainings on halves of the images, as
for the shallow CNN in the experiment on depth, and would take hours of this processor."""


def figure(bench: Workbench, name: str) -> Outcome:
    """Trains and indexes a network, draws its lists and counts what they hold."""
    trained, context = cifar10_network(bench, name)
    queries = bench.of(50, 6)
    found = _lists(bench, trained, context, queries)
    facts = {"accuracy": trained.accuracy, "held out": trained.held_out_accuracy, "cpu_seconds": trained.cpu_seconds}
    return Outcome(
        setting=_setting(bench, name, trained, context, queries),
        columns=["method", "class", "neighbours", "different"],
        rows=[_row(method, found[method]) for method in METHODS],
        paragraph=_paragraph(context, found),
        claims=[_quality(found) if name == SHALLOW else _understanding(bench, name, found, queries)],
        pictures={"lists": _picture(context, name)},
        values={**found, **facts},
    )


def _lists(bench: Workbench, trained: Trained, context: AuditContext, queries: int) -> dict[str, Any]:
    found: dict[str, Any] = bench.shared(trained, f"lists-{queries}", measured, context, queries)
    return found


def measured(context: AuditContext, queries: int) -> dict[str, dict[str, Any]]:
    """By method: the share of each list that has the test point's label, that is near it; of different examples."""
    positions = list(range(queries))
    lists = strongest(context, positions)
    labels = [context.held_out.item(position)[2] for position in positions]
    near = nearest(context, positions)
    return {
        name: {
            "label": [same_label([of], [label], name) for of, label in zip(lists, labels, strict=True)],
            "neighbour": [_share(of[name], names) for of, names in zip(lists, near, strict=True)],
            "different": distinct(lists, name),
        }
        for name in METHODS
    }


def nearest(context: AuditContext, positions: Sequence[int]) -> list[set[str]]:
    """Ids of the training examples that are nearest to some held-out ones by their inputs."""
    train, asked = context.data.batch(range(len(context.data))), context.held_out.batch(positions)
    found = torch.cdist(asked.tensor.flatten(1), train.tensor.flatten(1)).topk(NEAREST, largest=False).indices
    return [{context.data.example_id(place) for place in row} for row in found.tolist()]


def _share(listed: Sequence[Influence], names: set[str]) -> float:
    return sum(each.example_id in names for each in listed) / len(listed) if listed else 0.0


def _setting(bench: Workbench, name: str, trained: Trained, context: AuditContext, queries: int) -> str:
    network, model = NETWORKS[name], context.explainer.classifier.model
    return SETTING.format(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        images=cifar10_images(bench),
        optimizer={"sgd": "SGD", "adam": "Adam"}[network.optimizer],
        rate=network.learning_rate,
        epochs=bench.of(network.epochs, 2),
        batch_size=network.batch_size,
        seconds=trained.cpu_seconds,
        accuracy=trained.accuracy,
        held_out=trained.held_out_accuracy,
        others=len(context.held_out),
        layers=_layers(bench.of(network.layers, None), num_parameters(context.explainer.classifier.find_layers())),
        score=SCORED if name == SHALLOW else UNSCORED,
        queries=queries,
        shown=SHOWN,
    )


def _layers(names: Sequence[str] | None, count: int) -> str:
    if names is None:
        return f"all convolutions and linear layers ({count:,} parameters)"
    return (
        f"its last layers alone ({', '.join(names)}; {count:,} parameters), as all of them were not affordable here"
    )


def _row(method: str, of: Mapping[str, Any]) -> list[str]:
    return [method, _shown(of["label"]), _shown(of["neighbour"]), f"{of['different']:.0%}"]


def _shown(shares: Sequence[float]) -> str:
    mean, half = interval(shares)
    return f"{mean:.0%} ± {half:.0%}"


def _picture(context: AuditContext, name: str) -> Picture:
    rows = []
    for position in _first_of_classes(context):
        [lists] = strongest(context, [position])
        rows += panels(context, position, lists)
    return Picture(grid(rows), f"{name}: two test images and three training images each by IF, RelatIF and DIVINE")


def _first_of_classes(context: AuditContext) -> list[int]:
    """The first held-out example of each of the first classes that come."""
    seen: dict[int, int] = {}
    for position in range(len(context.held_out)):
        seen.setdefault(context.held_out.item(position)[2], position)
        if len(seen) == SHOWN:
            break
    return list(seen.values())


COUNTS = {"label": "class", "neighbour": "neighbours"}
"""What is counted in place of understanding, and its name in words."""


def easier(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool | None:
    """Whether one method's lists hold more of the test point's class and more neighbours than another's."""
    return both(*(above(differences(first[key], second[key])) for key in COUNTS))


def _counted(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Both counts of two lists, and their difference."""
    more = {key: _shown(differences(first[key], second[key])) for key in COUNTS}
    return ", ".join(
        f"{told} {_shown(first[key])} and {_shown(second[key])} (difference {more[key]})"
        for key, told in COUNTS.items()
    )


def _quality(found: Mapping[str, Any]) -> Claim:
    plain, relative = found["IF"], found["RelatIF"]
    return Claim(
        "with the shallow CNN RelatIF returns points of higher quality than IF (figure 9)",
        "by eye",
        f"listed images, RelatIF and IF: {_counted(relative, plain)}",
        easier(relative, plain),
        "quality is replaced by class and neighbours, which can be counted, and both must be more; different images "
        f"in all lists: RelatIF {relative['different']:.0%}, IF {plain['different']:.0%}",
    )


def _understanding(bench: Workbench, name: str, found: Mapping[str, Any], queries: int) -> Claim:
    shallow = _lists(bench, *cifar10_network(bench, SHALLOW), queries)
    return Claim(
        f"with {name} the points returned are not easy to understand for end users",
        "by eye",
        f"shallow CNN and {name}: " + "; ".join(f"{of}'s {_counted(shallow[of], found[of])}" for of in PAPERS),
        both(*(easier(shallow[of], found[of]) for of in PAPERS)),
        "understanding is replaced by class and neighbours, which can be counted: both must be fewer than with the "
        "shallow CNN, by IF and by RelatIF, for the same test images, and it fails by one that is clearly more. How "
        "well each has learnt the classes differs too, so that depth is not the only cause"
        + (LAST_LAYERS if NETWORKS[name].layers else ""),
    )


def _paragraph(context: AuditContext, found: Mapping[str, Any]) -> str:
    own = context.explainer.index.scales.self_influence.sort(descending=True).values
    held = float(own[: max(1, len(own) // 100)].sum() / own.sum())
    told = "; ".join(f"{name} {_shown(found[name]['label'])}" for name in METHODS)
    return (
        f"Listed images of the test image's class: {told}. By chance it is 10%; lists by |I| hold opponents too, of "
        "another class as a rule, so that 100% is not what is best. The highest hundredth of the training "
        f"images has {held:.0%} of all self-influence."
    )
