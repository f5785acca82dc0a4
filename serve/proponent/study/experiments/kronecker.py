"""K-FAC as the remedy for running time: faithfulness and time of K-FAC, EK-FAC and the exact Hessian."""

from __future__ import annotations

from typing import Any

from proponent.audit.scoring import open_bundle
from proponent.display.svg import drawing, new_figure
from proponent.study.drawing import BLUE, GREY
from proponent.study.halves import score, trained_halves
from proponent.study.models import perceptron
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import both, shorter
from proponent.study.workbench import Workbench

KINDS = {0: ("exact", "ekfac", "kfac"), 2: ("ekfac", "kfac")}
NAMES = {0: "logistic regression", 2: "perceptron, 2 hidden layers"}
SETTING = """Digits of scikit-learn ({examples} training examples), trained by SGD with weight decay 0.001.
Faithfulness is the datamodeling score (LDS): the rank correlation of predicted losses with those of {halves}
models trained on random halves, mean over {queries} held-out examples, with its 95 % interval. Seconds are
processor time of the whole rebuild: curvature, inverse and rows. The exact Hessian of a network is indefinite,
so there is none."""


def run(bench: Workbench) -> Outcome:
    """Builds each index and scores it against the same halves."""
    count, queries = bench.of(16, 3), bench.of(100, 10)
    found: dict[str, dict[str, float]] = {}
    for depth, kinds in KINDS.items():
        spec = perceptron(bench, depth).spec
        for kind in kinds:
            bundle = bench.bundle(spec.name, spec, kind=kind)
            context = open_bundle(bundle)
            halves = trained_halves(bench, spec.name, context, count, queries)
            scored = bench.step(f"{spec.name}-{kind}", score, context, halves)
            found[f"{NAMES[depth]}, {kind}"] = {**scored, "seconds": bench.index_seconds(bundle)}
    rows = [
        [name, f"{of['lds']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}", f"{of['seconds']:.1f}"]
        for name, of in found.items()
    ]
    return Outcome(
        setting=SETTING.format(examples=f"{len(context.data):,}", halves=count, queries=queries),
        columns=["curvature", "LDS", "95 % interval", "seconds of the rebuild"],
        rows=rows,
        paragraph=_paragraph(found),
        claims=[_claim(found)],
        pictures={"kronecker": _picture(found)},
        values={name: {key: value for key, value in of.items() if key != "seconds"} for name, of in found.items()},
    )


def _claim(found: dict[str, dict[str, float]]) -> Claim:
    exact, kfac = (found[f"logistic regression, {kind}"] for kind in ("exact", "kfac"))
    return Claim(
        "K-FAC reduces the time, though it might impact the quality of estimates (section 8)",
        "proposed, not run",
        f"logistic regression: exact LDS {exact['lds']:.2f} in {exact['seconds']:.1f} s, K-FAC {kfac['lds']:.2f} in "
        f"{kfac['seconds']:.1f} s",
        both(kfac["low"] <= exact["high"], shorter(kfac["seconds"], exact["seconds"])),
        "the factors' size is that of a layer's sides, the Hessian's "
        "that of all parameters, so the gain in time grows with the model",
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
