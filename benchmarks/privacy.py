"""What each level of disclosure leaks: who was trained on, and what the training images look like.

Two attacks on the digits' logistic regression, whose influences are exact. The attacker knows the kind of model and
how it was trained, has the held-out images, asks Explain and nothing else, and sees what the service's own code
leaves in a reply of each level.

**Membership.** 200 training images and 200 others, each explained for all ten classes with lists of the default
length. At the level ``full`` an l-RelatIF score whose square is the self-influence of the example it belongs to says
that the input is that example. At every level a random forest also learns from the other candidates' replies
(5-fold); its figures hold for an attacker who knows for some images whether they were trained on. ``none`` sees
predictions alone.

**Reconstruction.** The influence of example i is linear in z_i = H^-1 g_i: s(q, i) = g_q^T z_i. The attacker computes
g_q of its own queries from the probabilities in the replies, solves for z_i by ridge regression over all queries,
and multiplies by the H of its own images: g_i = (p - e_y) x_i^T, whose leading singular vector is the image. Below
``rounded`` ranks stand for scores: a list of both ends in order is mapped to the quantiles of a normal distribution
that crosses zero where the signs do. Figures are correlations of pixels; an attacker who asks nothing and answers
with the mean of its own images of the right class has the one given as ``class_mean``.

Run: ``OMP_NUM_THREADS=2 python benchmarks/privacy.py STORE [--out benchmarks/results/privacy.json]``, STORE with the
model ``digits`` (``proponent train digits --out D; proponent rebuild D --store STORE``). Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from proponent.datasets import digits
from proponent.datasets.transforms import pixels
from proponent.explainer import Explainer
from proponent.gateway.privacy.levels import withhold
from proponent.index.store import Store
from proponent.options import DEFAULT_TOP_K, ExplainOptions, Measure, Target
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.messages import explain_response

MODEL, CLASSES, CANDIDATES, QUERIES, BATCH = "digits", 10, 200, 900, 64
COUNTS = (30, 100, 300, 900)
EQUAL = 5e-4
RIDGE = 1e-4
Array = NDArray[np.float64]
Asked = tuple[Tensor, ExplainOptions]


def replies(explainer: Explainer, asked: Sequence[Asked]) -> Iterator[pb.ExplainResponse]:
    """What the worker answers to the gateway."""
    for start in range(0, len(asked), BATCH):
        inputs, options = zip(*asked[start : start + BATCH], strict=True)
        for found in explainer.explain(list(inputs), list(options)):
            assert not isinstance(found, Exception), found
            yield explain_response(found, "")


def seen(reply: pb.ExplainResponse, level: DisclosureLevel) -> pb.ExplainResponse:
    """What the gateway lets out."""
    told = pb.ExplainResponse()
    told.CopyFrom(reply)
    withhold(told, level)
    return told


# Membership


def membership(explainer: Explainer, rng: np.random.Generator) -> dict[str, Any]:
    sides = (digits.train(), digits.test())
    chosen = [[data[int(i)] for i in rng.choice(len(data), CANDIDATES, replace=False)] for data in sides]
    candidates = [(pixels(image), label) for part in chosen for image, label in part]
    targets = [ExplainOptions(target=Target(c)) for c in range(CLASSES)]
    asked = [(image, options) for image, _ in candidates for options in targets]
    answers = list(replies(explainer, asked))
    grouped = [answers[i : i + CLASSES] for i in range(0, len(answers), CLASSES)]
    labels = [label for _, label in candidates]
    truth = np.repeat([1, 0], CANDIDATES)
    found: dict[str, Any] = {
        "none": learned([prediction_features(g[y], y) for g, y in zip(grouped, labels, strict=True)], truth)
    }
    for level in DisclosureLevel:
        told = [[seen(reply, level) for reply in group] for group in grouped]
        found[level.name.lower()] = learned([features(g, y) for g, y in zip(told, labels, strict=True)], truth)
    equal = [
        any(equals(i) for i in influences(g[y], pb.MEASURE_L_RELATIF)) for g, y in zip(grouped, labels, strict=True)
    ]
    found["full"] |= {
        "members_told_by_equality": int(np.sum(equal[:CANDIDATES])),
        "others_told_by_equality": int(np.sum(equal[CANDIDATES:])),
    }
    return {"members": CANDIDATES, "others": CANDIDATES, "explanations_a_candidate": CLASSES, "levels": found}


def learned(rows: Sequence[Sequence[float]], truth: NDArray[np.int64]) -> dict[str, float]:
    forest = RandomForestClassifier(200, random_state=0, min_samples_leaf=2)
    scores = cross_val_predict(forest, np.array(rows), truth, cv=5, method="predict_proba")[:, 1]
    false, true, _ = roc_curve(truth, scores)
    return {
        "auc": round(float(roc_auc_score(truth, scores)), 3),
        "accuracy": round(float(np.mean((scores > 0.5) == truth)), 3),
        "found_without_false_alarm": round(float(true[false == 0].max()), 3),
    }


def prediction_features(reply: pb.ExplainResponse, label: int) -> list[float]:
    ordered = sorted(reply.prediction.probabilities)
    return [reply.prediction.probabilities[label], ordered[-1], ordered[-1] - ordered[-2], float(label)]


def features(group: Sequence[pb.ExplainResponse], label: int) -> list[float]:
    """What an attacker may make of the ten replies: of each level what it holds."""
    own = group[label]
    found = prediction_features(own, label)
    for result in own.results:
        for side in (result.proponents, result.opponents):
            found += [np.mean([i.class_id == label for i in side] or [0.0])]
            found += [np.mean([i.class_id != i.predicted_class_id for i in side] or [0.0])]
            found += [float(bool(side) and side[0].class_id == label), float(len(side))]
    return found + rank_features(group, own) + number_features(own)


def rank_features(group: Sequence[pb.ExplainResponse], own: pb.ExplainResponse) -> list[float]:
    """Whether the same example leads the lists of all classes and measures: an input's own example does."""
    if not any(i.example_id for i in influences(own, pb.MEASURE_L_RELATIF)):
        return []
    found = []
    for position in range(3):
        leaders = Counter(side[0].example_id for r in group for side in ends(r.results[position]) if side)
        [(leader, votes), *_] = leaders.most_common(1) or [("", 0)]
        found += [float(votes)]
        for result in own.results:
            ranks = [i.rank for i in result.proponents if i.example_id == leader]
            found += [float(ranks[0]) if ranks else DEFAULT_TOP_K + 1.0]
    return found


def number_features(own: pb.ExplainResponse) -> list[float]:
    found = []
    for result in own.results:
        for side in ends(result):
            scores = [i.score for i in side if i.HasField("score")] + [0.0] * DEFAULT_TOP_K
            found += [*scores[:3], scores[1] / scores[0] if scores[0] else 0.0]
    gaps = [abs(i.score**2 / i.self_influence - 1) for i in influences(own, pb.MEASURE_L_RELATIF) if i.self_influence]
    return [*found, min(gaps, default=9.0)]


def influences(reply: pb.ExplainResponse, measure: int) -> Iterator[pb.Influence]:
    for result in reply.results:
        if result.measure == measure:
            yield from result.proponents


def equals(influence: pb.Influence) -> bool:
    return abs(influence.score**2 / influence.self_influence - 1) < EQUAL


def ends(result: pb.MeasureResult) -> tuple[Sequence[pb.Influence], Sequence[pb.Influence]]:
    return result.proponents, result.opponents


# Reconstruction


class Attacker:
    """Its queries, and what it has heard of each training example; nan where nothing.

    A list as long as the training set leaves out scores of zero alone.
    """

    def __init__(self, images: Array, targets: Sequence[int], examples: Sequence[str], top_k: int) -> None:
        self.inputs = np.hstack([images.reshape(len(images), -1), np.ones((len(images), 1))])
        self.targets = targets
        self.position = {name: n for n, name in enumerate(examples)}
        self.gradients = np.zeros((len(images), CLASSES * self.inputs.shape[1]))
        self.probabilities = np.zeros((len(images), CLASSES))
        self.heard = np.full((len(images), len(examples)), np.nan)
        self.unlisted = 0.0 if top_k >= len(examples) else np.nan

    def hear(self, number: int, reply: pb.ExplainResponse) -> None:
        """Takes a reply down."""
        p = np.array(reply.prediction.probabilities)
        self.probabilities[number] = p
        self.gradients[number] = np.outer(p - np.eye(CLASSES)[self.targets[number]], self.inputs[number]).ravel()
        [result] = reply.results
        listed = (*result.proponents, *result.opponents)
        if not all(influence.example_id for influence in listed):
            return
        self.heard[number] = self.unlisted
        places = [self.position[influence.example_id] for influence in listed]
        self.heard[number, places] = standing_for_scores(result, len(self.position))

    def hessian(self, weight_decay: float) -> Array:
        """That of the loss at the attacker's own images."""
        x, p = self.inputs, self.probabilities
        curvature = np.einsum("nc,cd->ncd", p, np.eye(CLASSES)) - np.einsum("nc,nd->ncd", p, p)
        total = np.einsum("ncd,ni,nj->cidj", curvature, x, x, optimize=True) / len(x)
        size = CLASSES * x.shape[1]
        return total.reshape(size, size) + weight_decay * np.eye(size)

    def images(self, count: int, weight_decay: float, *, ranks: bool) -> Array:
        """All training images as the first ``count`` replies tell them, up to scale; nan where nothing was heard."""
        hessian = self.hessian(weight_decay)
        gradients, heard = self.gradients[:count], self.heard[:count]
        if ranks:  # their unit is the spread of the scores of a query, which its gradient tells
            heard = (
                heard * np.sqrt(np.einsum("qp,qp->q", gradients, np.linalg.solve(hessian, gradients.T).T))[:, None]
            )
        known = ~np.isnan(heard)
        if known.all():
            found = solved(gradients, heard, hessian).T
        else:
            found = np.full((heard.shape[1], gradients.shape[1]), np.nan)
            for example in np.flatnonzero(known.any(axis=0)):
                told = known[:, example]
                found[example] = solved(gradients[told], heard[told, example], hessian)
        return np.array([leading_image(each.reshape(CLASSES, -1)) for each in found])


def solved(gradients: Array, scores: Array, hessian: Array) -> Array:
    """The gradients [P, ...] of examples whose scores [Q, ...] the same queries tell, by ridge regression."""
    kernel = gradients @ gradients.T
    kernel += RIDGE * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    found: Array = hessian @ (gradients.T @ np.linalg.solve(kernel, scores))
    return found


def standing_for_scores(result: pb.MeasureResult, examples: int) -> list[float]:
    """The scores of both ends, or what their order says of them."""
    listed = (*result.proponents, *result.opponents)
    if all(i.HasField("score") for i in listed):
        return [i.score for i in listed]
    middle = norm.ppf((len(result.opponents) + 0.5) / (examples + 1)) if len(listed) == examples else 0.0
    above = [norm.ppf(1 - (i.rank - 0.5) / (examples + 1)) - middle for i in result.proponents]
    return above + [norm.ppf((i.rank - 0.5) / (examples + 1)) - middle for i in result.opponents]


def leading_image(gradient: Array) -> Array:
    if np.isnan(gradient).any():
        return np.full(gradient.shape[1] - 1, np.nan)
    image = np.linalg.svd(gradient, full_matrices=False)[2][0, :-1]
    return image if image.sum() > 0 else -image


def reconstruction(explainer: Explainer, rng: np.random.Generator) -> dict[str, Any]:
    train, own = digits.train(), digits.test()
    names = [train.example_id(i) for i in range(len(train))]
    truth = np.array([pixels(train[i][0]).numpy().ravel() for i in range(len(train))], dtype=float)
    found: dict[str, Any] = {"class_mean": round(class_mean(train, own, truth), 3)}
    picks = [
        (int(i), int(rng.integers(CLASSES))) for i in rng.permutation(np.repeat(np.arange(len(own)), 3))[:QUERIES]
    ]
    for kind, top_k in (("whole_lists", len(train)), ("default_lists", DEFAULT_TOP_K)):
        images = np.array([pixels(own[i][0]).numpy() for i, _ in picks], dtype=float)
        attackers = {level: Attacker(images, [c for _, c in picks], names, top_k) for level in DisclosureLevel}
        options = [ExplainOptions((Measure.INFLUENCE,), top_k, Target(c)) for _, c in picks]
        asked = [(pixels(own[i][0]), each) for (i, _), each in zip(picks, options, strict=True)]
        for number, reply in enumerate(replies(explainer, asked)):
            for level, attacker in attackers.items():
                attacker.hear(number, seen(reply, level))
        found[kind] = {
            level.name.lower(): leaks(attacker, truth, explainer, level) for level, attacker in attackers.items()
        }
    return {"training_images": len(train), **found}


def leaks(attacker: Attacker, truth: Array, explainer: Explainer, level: DisclosureLevel) -> dict[str, Any]:
    found = {}
    for count in COUNTS:
        guesses = attacker.images(count, explainer.manifest.weight_decay, ranks=level < DisclosureLevel.ROUNDED)
        told = ~np.isnan(guesses).any(axis=1)
        correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(guesses[told], truth[told], strict=True)]
        found[str(count)] = {
            "images_told_of": int(told.sum()),
            "median_correlation": round(float(np.median(correlations)), 3) if correlations else None,
            "above_0.9": int(np.sum(np.array(correlations) > 0.9)),
        }
    return found


def class_mean(train: Any, own: Any, truth: Array) -> float:
    images = np.array([pixels(own[i][0]).numpy().ravel() for i in range(len(own))], dtype=float)
    labels = np.array([own[i][1] for i in range(len(own))])
    means = [images[labels == c].mean(axis=0) for c in range(CLASSES)]
    return float(np.median([np.corrcoef(means[train[i][1]], truth[i])[0, 1] for i in range(len(train))]))


def table(found: dict[str, Any]) -> str:
    lines = [
        "| level | members: AUC | found without false alarm "
        "| images, 900 whole lists | 100 whole lists | 900 lists of 10 |",
        "|---|---|---|---|---|---|",
    ]
    parts = found["reconstruction"]
    for level, told in found["membership"]["levels"].items():
        shown = [f"{told['auc']:.2f}", f"{told['found_without_false_alarm']:.0%}"]
        for kind, count in (("whole_lists", 900), ("whole_lists", 100), ("default_lists", 900)):
            value = parts[kind][level][str(count)]["median_correlation"] if level in parts[kind] else None
            shown.append("none" if value is None else f"{value:.3f}")
        lines.append(f"| `{level}` | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    explainer = Explainer.load(Store(options.store).current(MODEL), device=torch.device("cpu"))
    found = {
        "bundle": explainer.manifest.digest,
        "seed": options.seed,
        "membership": membership(explainer, np.random.default_rng(options.seed)),
        "reconstruction": reconstruction(explainer, np.random.default_rng(options.seed)),
    }
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
