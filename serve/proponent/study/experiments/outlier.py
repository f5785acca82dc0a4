"""Section 6's geometry: influence picks an outlier for many test points, RelatIF their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.losses import get_loss
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.options import Measure
from proponent.spec import Factory
from proponent.study import points
from proponent.study.drawing import BLUE, GREEN, GREY, ORANGE
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both
from proponent.study.workbench import Workbench
from proponent.training.presets import PRESETS

TOP = 3
MEASURES = {"IF": Measure.INFLUENCE, "theta-RelatIF": Measure.THETA_RELATIF, "l-RelatIF": Measure.L_RELATIF}
SETTING = """Logistic regression on two overlapping clouds of 100 points of the plane, with one outlier: a point
of the orange class on the far side of the blue one. Weight decay 0.01, trained to the minimum, exact Hessian.
The {top} training points of largest absolute score are found for each of 100 other points of the clouds, for
{seeds} draws of all points."""


def run(bench: Workbench) -> Outcome:
    """Counts how often each measure names the outlier, and how near to the test point its examples lie."""
    seeds = bench.of(5, 2)
    found = [bench.step(f"seed-{seed}", measured, cloud(bench, seed)) for seed in range(seeds)]
    means = {name: {key: _mean([of[name][key] for of in found]) for key in found[0][name]} for name in MEASURES}
    rows = [
        [name, f"{of['outlier']:.1%}", f"{of['distance']:.3f}", f"{of['distinct']:.0f}"] for name, of in means.items()
    ]
    return Outcome(
        setting=SETTING.format(top=TOP, seeds=seeds),
        columns=["measure", "lists that hold the outlier", "median distance to the test point", "different examples"],
        rows=rows,
        paragraph=_paragraph(means),
        claims=[_claim(means, found)],
        pictures={"outlier": _picture(cloud(bench, 0))},
        values=means,
    )


def cloud(bench: Workbench, seed: int) -> AuditContext:
    """The index of a draw of the points."""
    kwargs = {"seed": seed}
    preset = replace(
        PRESETS["digits"],
        name=f"points-{seed}",
        model=Factory(factory="proponent.models.logistic:LogisticRegression", kwargs={"inputs": 2, "classes": 2}),
        dataset=Factory(factory="proponent.study.points:train", kwargs=kwargs),
        held_out=Factory(factory="proponent.study.points:test", kwargs=kwargs),
        transform=Factory(factory="proponent.study.points:as_they_are"),
        class_names=points.Points.class_names,
    )
    return bench.opened(f"points-{seed}", preset)


def measured(context: AuditContext) -> dict[str, dict[str, float]]:
    """By measure: the share of lists with the outlier, their examples' median distance, how many are different."""
    queries = list(range(len(context.held_out)))
    train, test = (data.batch(range(len(data))).tensor for data in (context.data, context.held_out))
    distances = torch.cdist(test, train)
    found = {}
    for name, measure in MEASURES.items():
        chosen = influence_matrix(context, queries, measure).abs().topk(TOP, dim=1).indices
        found[name] = {
            "outlier": float((chosen == points.OUTLIER).any(dim=1).double().mean()),
            "distance": float(distances.gather(1, chosen).median()),
            "everyone": float(distances.median()),
            "distinct": float(len(set(chosen.flatten().tolist()))),
        }
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def picks_outlier_and_neighbours(found: Sequence[Mapping[str, Mapping[str, float]]]) -> bool | None:
    """Whether, over the draws, most lists of IF hold the outlier and fewer of RelatIF, whose points lie near."""
    plain, relative = ([of[name] for of in found] for name in ("IF", "theta-RelatIF"))
    most = above([of["outlier"] for of in plain], 0.5)
    more, farther = (above([a[key] - b[key] for a, b in zip(plain, relative, strict=True)]) for key in _JUDGED)
    return both(most, more, farther, above([of["everyone"] - of["distance"] for of in relative]))


_JUDGED = ("outlier", "distance")


def _claim(means: dict[str, dict[str, float]], found: list[dict[str, dict[str, float]]]) -> Claim:
    ours, relative = means["IF"], means["theta-RelatIF"]
    return Claim(
        "IF returns the outlier, RelatIF points that lie near the test point (figure 4)",
        "a drawing, no figure",
        f"outlier in {ours['outlier']:.0%} of the lists of IF, {relative['outlier']:.0%} of theta-RelatIF; distance "
        f"{ours['distance']:.2f} and {relative['distance']:.2f}, to any training point {relative['everyone']:.2f}",
        picks_outlier_and_neighbours(found),
        "RelatIF divides by the distance that an example moves the parameters, and the outlier moves them most. It "
        "must be in most lists of IF and in fewer of RelatIF, whose points must lie nearer than IF's and than any",
    )


def _paragraph(means: dict[str, dict[str, float]]) -> str:
    told = "; ".join(f"{name} {of['outlier']:.0%} and {of['distance']:.2f}" for name, of in means.items())
    return (
        f"Share of lists with the outlier, and median distance of the examples listed: {told}. In the figure, the "
        "right panel shows what each training point would do to the parameters (H^-1 g: its part along the gradient "
        "of the test point, and the rest). Influence is the length of the part along it, theta-RelatIF the cosine."
    )


def change_of_parameters(context: AuditContext, query: int) -> Tensor:
    """``H^-1 g_i`` of every training example, [N, 2] float64: along the query's gradient, and the length of the rest.

    From what an index keeps: ``I = g^T H^-1 g_i``, and theta-RelatIF, which is I over ``||H^-1 g_i||``.
    """
    influence = influence_matrix(context, [query])[0]
    relative = influence_matrix(context, [query], Measure.THETA_RELATIF)[0]
    length = torch.where(relative == 0, 0.0, influence / relative)
    along = influence / _gradient_norm(context, query)
    return torch.stack([along, (length.square() - along.square()).clamp(min=0).sqrt()], dim=1)


def _gradient_norm(context: AuditContext, query: int) -> float:
    model = context.explainer.classifier.model
    batch = context.held_out.batch([query])
    loss = get_loss("cross_entropy").per_example(model(batch.inputs), batch.labels).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def _picture(context: AuditContext) -> Picture:
    query = _shown(context)
    train, test = context.data.batch(range(len(context.data))), context.held_out.batch([query])
    chosen = {
        name: influence_matrix(context, [query], MEASURES[name])[0].abs().topk(TOP).indices
        for name in ("IF", "theta-RelatIF")
    }
    moved = change_of_parameters(context, query)
    with drawing():
        figure = new_figure(8.4, 3.8)
        plane, space = figure.subplots(1, 2)
        for label, colour in enumerate((BLUE, ORANGE)):
            of = train.labels == label
            plane.scatter(*train.tensor[of].T, s=12, color=colour, alpha=0.6, linewidths=0)
            space.scatter(*moved[of].T, s=12, color=colour, alpha=0.6, linewidths=0)
        plane.scatter(*test.tensor.T, marker="*", s=130, color=GREEN, label="test point")
        space.annotate("", (float(moved[:, 0].max()), 0), (0, 0), arrowprops={"color": GREEN, "width": 1})
        _rings(plane, train.tensor, chosen)
        _rings(space, moved, chosen)
        plane.set(xlabel="first coordinate", ylabel="second coordinate", title="the data", aspect="equal")
        space.set(
            xlabel="along the gradient of the test point", ylabel="the rest", title="what each point moves: H⁻¹ g"
        )
        figure.legend(*plane.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return Picture(
        figure, "Two clouds with an outlier: IF rings the outlier, theta-RelatIF points beside the test point"
    )


def _rings(axes: Any, places: Tensor, chosen: dict[str, Tensor]) -> None:
    for (name, rows), size, colour in zip(chosen.items(), (150, 70), (GREY, "#b0203a"), strict=True):
        axes.scatter(
            *places[rows].T, s=size, facecolors="none", edgecolors=colour, linewidths=1.6, label=f"top by {name}"
        )


def _shown(context: AuditContext) -> int:
    """The first test point for which IF names the outlier first; the first of all where there is none."""
    scores = influence_matrix(context, list(range(len(context.held_out)))).abs()
    hits = (scores.argmax(dim=1) == points.OUTLIER).nonzero().flatten().tolist()
    return hits[0] if hits else 0
