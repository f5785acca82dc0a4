"""K-FAC as the remedy for running time: faithfulness and time of K-FAC, EK-FAC and the exact Hessian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import num_parameters
from proponent.audit.intervals import two_way_interval
from proponent.display.svg import drawing, new_figure
from proponent.spec import Curvature
from proponent.study.drawing import BLUE, GREY
from proponent.study.halves import Halves, score, scores_of, trained_halves
from proponent.study.models import perceptron, trained_logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import Ends, exceeds, shorter
from proponent.study.workbench import Trained, Workbench

APPROXIMATE = ("ekfac", "kfac")
DIGITS, LARGER = "logistic regression, digits", "logistic regression of Table 1"
SETTING = """Scikit-learn's digits, trained by SGD with weight decay 0.001, and the logistic regression of Table 1
with weight decay 0.01, whose Hessian has {rows:,} rows and columns where that of the digits has {few:,}.
Faithfulness is the datamodeling score (LDS): the rank correlation of predicted losses with those of {halves}
models trained on random halves, mean over {queries} held-out examples, with its 95 % interval. Seconds are
processor time of the whole rebuild: curvature, inverse and rows. The exact Hessian of a network is indefinite,
so there is none. Each has its kind's default damping: none for the exact Hessian, 100 times a layer's mean eigenvalue
for K-FAC and EK-FAC, so that differences of the LDS are those of curvature and damping together."""


def run(bench: Workbench) -> Outcome:
    """Builds each index and scores it against the same halves."""
    count, queries = bench.of(16, 3), bench.of(100, 10)
    models = {
        DIGITS: (perceptron(bench, 0), ("exact", *APPROXIMATE)),
        "perceptron, 2 hidden layers, digits": (perceptron(bench, 2), APPROXIMATE),
        LARGER: (trained_logistic_regression(bench, 0.01), ("exact", *APPROXIMATE)),
    }
    found: dict[str, dict[str, Any]] = {}
    claims = []
    for name, (trained, kinds) in bench.track("models", models.items(), len(models)):
        for kind in kinds:
            found[f"{name}, {kind}"], halves = _scored(bench, trained, kind, count, queries)
        if "exact" in kinds:
            claims += _claims(name, found, halves.losses)
    rows = [
        [name, f"{of['lds']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}", f"{of['seconds']:.1f}"]
        for name, of in found.items()
    ]
    return Outcome(
        setting=SETTING.format(
            rows=int(found[f"{LARGER}, exact"]["parameters"]),
            few=int(found[f"{DIGITS}, exact"]["parameters"]),
            halves=count,
            queries=queries,
        ),
        columns=["curvature", "LDS", "95 % interval", "seconds of the rebuild"],
        rows=rows,
        paragraph=_paragraph(found),
        claims=claims,
        pictures={"kronecker": _picture(found)},
        values={name: {key: of[key] for key in ("lds", "low", "high", "parameters")} for name, of in found.items()},
    )


def _scored(bench: Workbench, trained: Trained, kind: str, count: int, queries: int) -> tuple[dict[str, Any], Halves]:
    """The datamodeling score of an index of a kind with its default damping, and what its rebuild took."""
    context = bench.opened_of(trained, **_changed(trained.spec.curvature, kind))
    halves = trained_halves(bench, trained, context, count, queries)
    found = {
        **bench.step(f"{trained.name}-{kind}", score, context, halves),
        "seconds": bench.index_seconds(context.bundle),
        "parameters": num_parameters(context.explainer.classifier.find_layers()),
    }
    return found, halves


def _changed(curvature: Curvature, kind: str) -> dict[str, Any]:
    """Keys that make a curvature one of a kind, with that kind's default damping."""
    if kind == curvature.kind:
        return {}
    return {"kind": kind} if curvature.damping is None else {"kind": kind, "damping": None}


def _claims(name: str, found: Mapping[str, Mapping[str, Any]], losses: Tensor) -> list[Claim]:
    """Of one model: whether K-FAC is faster, and whether it is less faithful."""
    exact, kfac = (found[f"{name}, {kind}"] for kind in ("exact", "kfac"))
    lost = loss_of_score(exact["predicted"], kfac["predicted"], losses)
    return [
        Claim(
            f"K-FAC reduces the time ({name})",
            "proposed, not run",
            f"{kfac['seconds']:.1f} s, exact {exact['seconds']:.1f} s",
            shorter(kfac["seconds"], exact["seconds"]),
            "processor time of the rebuild, decided where they differ by a fifth or more; the factors are as large "
            "as a layer's sides, the Hessian as all parameters, so the gain grows with the model",
        ),
        Claim(
            f"it might impact the quality of estimates ({name})",
            "proposed, not run",
            f"LDS {kfac['lds']:.3f}, exact {exact['lds']:.3f}; lost {lost[0]:+.3f} to {lost[1]:+.3f}",
            exceeds(lost),
            "holds where the LDS is lower, by the interval of the difference over other held-out examples and "
            "halves; the damping differs too",
        ),
    ]


def loss_of_score(exact: Sequence[Sequence[float]], other: Sequence[Sequence[float]], losses: Tensor) -> Ends:
    """By how much an LDS is lower than another; predicted gains [Q][S] of both, losses [S, Q]."""
    predicted = torch.stack([torch.tensor(of, dtype=torch.float64) for of in (exact, other)], dim=-1)

    def lost(left: Tensor, right: Tensor) -> Tensor:
        return -scores_of(left, right).diff()

    return two_way_interval(lost, predicted, losses.mT[..., None].expand_as(predicted), correlation=False)


def _paragraph(found: dict[str, dict[str, Any]]) -> str:
    told = "; ".join(f"{name} {of['lds']:.3f} ({of['seconds']:.1f} s)" for name, of in found.items())
    return (
        f"LDS and seconds: {told}. Models as small as these hardly need K-FAC; networks cannot do without it, "
        "and EK-FAC, which measures the eigenvalues in the factors' basis, costs one more pass over the data."
    )


def _picture(found: dict[str, dict[str, Any]]) -> Picture:
    with drawing():
        figure = new_figure(6.4, 2.8)
        axes = figure.subplots()
        for place, of in enumerate(found.values()):
            axes.barh(place, of["lds"], color=BLUE, height=0.6)
            axes.plot([of["low"], of["high"]], [place, place], color=GREY, linewidth=2)
        axes.set_yticks(range(len(found)), list(found), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("datamodeling score with its 95 % interval")
    return Picture(figure, "Datamodeling scores of exact curvature, EK-FAC and K-FAC")
