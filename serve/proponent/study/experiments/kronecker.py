"""K-FAC as the remedy for running time: faithfulness and time of K-FAC, EK-FAC and the exact Hessian."""

from __future__ import annotations

from typing import Any

from proponent.attribution.gradients.layers import num_parameters
from proponent.display.svg import drawing, new_figure
from proponent.spec import Curvature
from proponent.study.drawing import BLUE, GREY
from proponent.study.halves import score, trained_halves
from proponent.study.models import perceptron, trained_logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import shorter
from proponent.study.workbench import Trained, Workbench

APPROXIMATE = ("ekfac", "kfac")
DIGITS, LARGER = "logistic regression, digits", "logistic regression of Table 1"
SETTING = """Scikit-learn's digits, trained by SGD with weight decay 0.001, and the logistic regression of Table 1
with weight decay 0.01, whose Hessian has {rows:,} rows and columns where that of the digits has {few:,}.
Faithfulness is the datamodeling score (LDS): the rank correlation of predicted losses with those of {halves}
models trained on random halves, mean over {queries} held-out examples, with its 95 % interval. Seconds are
processor time of the whole rebuild: curvature, inverse and rows. The exact Hessian of a network is indefinite,
so there is none."""


def run(bench: Workbench) -> Outcome:
    """Builds each index and scores it against the same halves."""
    count, queries = bench.of(16, 3), bench.of(100, 10)
    models = {
        DIGITS: (perceptron(bench, 0), ("exact", *APPROXIMATE)),
        "perceptron, 2 hidden layers, digits": (perceptron(bench, 2), APPROXIMATE),
        LARGER: (trained_logistic_regression(bench, 0.01), ("exact", *APPROXIMATE)),
    }
    found: dict[str, dict[str, float]] = {}
    for name, (trained, kinds) in bench.track("models", models.items(), len(models)):
        for kind in kinds:
            found[f"{name}, {kind}"] = _scored(bench, trained, kind, count, queries)
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
        claims=[_claim(found)],
        pictures={"kronecker": _picture(found)},
        values={name: {key: value for key, value in of.items() if key != "seconds"} for name, of in found.items()},
    )


def _scored(bench: Workbench, trained: Trained, kind: str, count: int, queries: int) -> dict[str, float]:
    """The datamodeling score of an index of a kind with its default damping, and what its rebuild took."""
    context = bench.opened_of(trained, **_changed(trained.spec.curvature, kind))
    halves = trained_halves(bench, trained, context, count, queries)
    return {
        **bench.step(f"{trained.name}-{kind}", score, context, halves),
        "seconds": bench.index_seconds(context.bundle),
        "parameters": num_parameters(context.explainer.classifier.find_layers()),
    }


def _changed(curvature: Curvature, kind: str) -> dict[str, Any]:
    """Keys that make a curvature one of a kind, with that kind's default damping."""
    if kind == curvature.kind:
        return {}
    return {"kind": kind} if curvature.damping is None else {"kind": kind, "damping": None}


def _claim(found: dict[str, dict[str, float]]) -> Claim:
    (few, less), (exact, kfac) = (
        [found[f"{name}, {kind}"] for kind in ("exact", "kfac")] for name in (DIGITS, LARGER)
    )
    return Claim(
        "K-FAC reduces the time, though it might impact the quality of estimates (section 8)",
        "proposed, not run",
        f"{LARGER}: exact LDS {exact['lds']:.2f} in {exact['seconds']:.1f} s, K-FAC {kfac['lds']:.2f} in "
        f"{kfac['seconds']:.1f} s; digits: {few['lds']:.2f} in {few['seconds']:.1f} s, {less['lds']:.2f} in "
        f"{less['seconds']:.1f} s",
        shorter(kfac["seconds"], exact["seconds"]),
        "decided by the time on the larger model, whose quality stands beside it; the factors' size is that of a "
        "layer's sides, the Hessian's that of all parameters, so the gain grows with the model",
    )


def _paragraph(found: dict[str, dict[str, float]]) -> str:
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
