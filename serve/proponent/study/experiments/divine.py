"""DIVINE with all three redundancy terms on the models of the study: diversity, influence kept, overlap with IF."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from proponent.audit.scoring import AuditContext
from proponent.display.svg import drawing, new_figure
from proponent.options import Diversity, ExplainOptions, Measure, Redundancy
from proponent.study.drawing import BLUE, GREEN, GREY, ORANGE
from proponent.study.listing import explained
from proponent.study.models import NETWORKS, binary_cnn, cifar10_network, logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both, either, interval
from proponent.study.workbench import Workbench

TOP = 10
GAMMAS = (0.25, 1.0, 4.0)
SMALL = 0.1
"""Share of the influence whose loss is called small, and of the similarity whose loss is not."""
SETTING = """The models of Table 1, figures 6 to 8 (BCE, weight decay 0.001) and figures 9 to 11. The 10 proponents of
{queries} held-out examples, chosen from the 200 strongest by DIVINE (equation 13) with each redundancy term.
gamma is on the scale of this project: at 1 plain top-10 and diversity alone are worth the same. Influence kept is
the sum of the scores over that of plain top-10; similarity the mean RBF kernel of the pairs listed (median
bandwidth), less that of plain IF's list, with the 95 % interval over the test points; overlap the share of plain
IF's top 10 that stays."""


def run(bench: Workbench) -> Outcome:
    """Asks each model with each term and weight."""
    queries = bench.of(30, 4)
    contexts = {
        "logistic regression": logistic_regression(bench, 0.0),
        "binary CNN (bce)": binary_cnn(bench, "bce", 0.001)[1],
        **{name: cifar10_network(bench, name)[1] for name in NETWORKS},
    }
    found = {
        name: bench.step(f"model-{number}", _measured, context, queries)
        for number, (name, context) in enumerate(bench.track("models", contexts.items(), len(contexts)))
    }
    rows = [
        [model, term, f"{of['kept']:.1%}", f"{of['similarity']:.3f}", _signed(of["less"]), f"{of['overlap']:.1%}"]
        for model, terms in found.items()
        for term, of in terms.items()
    ]
    return Outcome(
        setting=SETTING.format(queries=queries),
        columns=["model", "term, gamma", "influence kept", "similarity", "less plain IF's", "overlap with IF"],
        rows=rows,
        paragraph=_paragraph(found),
        claims=[_claim(term, found) for term in Redundancy],
        pictures={"divine": _picture(found)},
        values=found,
    )


def _measured(context: AuditContext, queries: int) -> dict[str, dict[str, Any]]:
    positions = list(range(queries))
    plain = _lists(context, positions, None)
    found = {}
    for term in Redundancy:
        for gamma in GAMMAS:
            diverse = _lists(context, positions, Diversity(term, gamma=gamma, candidates=200))
            outcomes = [outcome for _, outcome in diverse if outcome is not None]
            shared = [len(new & old) / len(old) for (new, _), (old, _) in zip(diverse, plain, strict=True) if old]
            found[f"{term.value}, {gamma:g}"] = {
                "kept": mean(outcome.influence_kept for outcome in outcomes),
                "kept of each": [outcome.influence_kept for outcome in outcomes],
                "similarity": mean(outcome.mean_similarity for outcome in outcomes),
                "plain": mean(outcome.plain_similarity for outcome in outcomes),
                "less": [outcome.mean_similarity - outcome.plain_similarity for outcome in outcomes],
                "fall": [1 - outcome.mean_similarity / outcome.plain_similarity for outcome in outcomes],
                "overlap": mean(shared),
            }
    return found


def _lists(context: AuditContext, positions: list[int], diversity: Diversity | None) -> list[tuple[set[str], Any]]:
    options = ExplainOptions(measures=(Measure.INFLUENCE,), top_k=TOP, diversity=diversity)
    answers = [answer.results[0] for answer in explained(context, positions, options)]
    return [({each.example_id for each in of.proponents}, of.proponents_diversity) for of in answers]


def _signed(values: list[float]) -> str:
    middle, half = interval(values)
    return f"{middle:+.3f} ± {half:.3f}"


def pays(of: Mapping[str, Any]) -> bool | None:
    """Whether lists are less similar by a tenth or more, and keep nine tenths of the influence or more."""
    return both(above(of["fall"], SMALL), above(of["kept of each"], 1 - SMALL))


def _claim(term: Redundancy, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Claim:
    by_gamma = {gamma: [of[f"{term.value}, {gamma:g}"] for of in found.values()] for gamma in GAMMAS}
    told = "; ".join(
        f"gamma {gamma:g}: {min(of['kept'] for of in models):.0%} to {max(of['kept'] for of in models):.0%} of the "
        f"influence kept, similarity lower by {mean(mean(of['fall']) for of in models):.1%} on average, and lower at "
        f"all (interval) on {[above(of['fall']) for of in models].count(True)} of {len(models)} models"
        for gamma, models in by_gamma.items()
    )
    return Claim(
        f"DIVINE returns points from different regions at a small loss of influence ({term.value})",
        "planned, not run",
        told,
        either(*(both(*map(pays, models)) for models in by_gamma.values())),
        "holds where one gamma loses at most a tenth of the influence and lowers the similarity by at least a tenth, "
        f"on every model{'' if term is Redundancy.SUM else '; it rewards covering the candidates, not being apart'}",
    )


def _paragraph(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    told = "; ".join(
        f"{model}, {term.value}: {of[f'{term.value}, 1']['kept']:.0%} of the influence, overlap "
        f"{of[f'{term.value}, 1']['overlap']:.0%}"
        for model, of in found.items()
        for term in Redundancy
    )
    return f"At gamma 1: {told}."


def _picture(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Picture:
    with drawing():
        figure = new_figure(8.4, 5.4)
        places = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
        for axes, (model, terms) in zip(places, found.items(), strict=False):
            for term, colour in zip(Redundancy, (BLUE, ORANGE, GREEN), strict=True):
                of = [terms[f"{term.value}, {gamma:g}"] for gamma in GAMMAS]
                points = ([each["kept"] for each in of], [each["similarity"] for each in of])
                axes.plot(*points, "o-", color=colour, markersize=4, label=term.value)
            axes.scatter(1, of[0]["plain"], marker="*", s=70, color=GREY, label="plain IF")
            axes.set_title(model, fontsize=9)
            axes.set_xlabel("influence kept", fontsize=8)
            axes.set_ylabel("similarity of the list", fontsize=8)
            axes.tick_params(labelsize=7, labelbottom=True, labelleft=True)
        for axes in places[len(found) :]:
            axes.set_axis_off()
            axes.legend(*places[0].get_legend_handles_labels(), fontsize=8, loc="center")
    return Picture(figure, "Similarity of DIVINE's lists on the influence that they keep, by model and term")
