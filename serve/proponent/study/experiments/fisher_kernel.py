"""Fisher kernels (Khanna et al. 2019): training examples that represent the test data, chosen greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.quadrature import represent
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.display.svg import drawing, new_figure
from proponent.rebuild.retraining import trained_on
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.embeddings import embeddings
from proponent.study.models import perceptron
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import above, both, differences, interval
from proponent.study.workbench import Workbench
from proponent.training.loop import accuracy

SETTING = """Logistic regression on scikit-learn's digits ({examples} training examples, SGD, exact curvature,
which for this model is the Fisher information). The Fisher kernel of two examples is the product of their
embeddings. Sequential Bayesian quadrature chooses examples that represent the mean embedding of {queries}
held-out examples at their true labels; a new model is trained on the chosen ones alone by the same recipe (as
many epochs, so fewer steps) and judged on the other held-out examples; means of {draws} trainings, each of
another seed. Beside it: as many at random (another draw for each training), and those of largest summed
influence on the same held-out examples. The loss is that of the whole model on what was chosen, and on all."""
METHODS = ("Fisher kernel", "random", "largest summed influence")


def run(bench: Workbench) -> Outcome:
    """Chooses, trains on what was chosen, and compares."""
    trained = perceptron(bench, 0)
    context = bench.opened_of(trained, kind="exact")
    queries, draws = bench.of(180, 40), bench.of(5, 2)
    found = {
        str(size): bench.step(f"size-{size}", _compared, context, queries, draws, size)
        for size in bench.of((20, 50, 100, 200), (10, 30))
    }
    rows = [
        [size, f"{of['explained']:.1%}", *(_shown(of[method]) for method in METHODS), _losses(of)]
        for size, of in found.items()
    ]
    return Outcome(
        setting=SETTING.format(examples=f"{len(context.data):,}", queries=queries, draws=draws),
        columns=["chosen", "of the mean explained", *METHODS, "loss: Fisher kernel, all"],
        rows=rows,
        paragraph=_paragraph(found, trained.held_out_accuracy),
        claims=[_claim(found)],
        pictures={"fisher_kernel": _picture(found, trained.held_out_accuracy)},
        values=found,
    )


def _compared(context: AuditContext, queries: int, draws: int, size: int) -> dict[str, Any]:
    rows, asked = embeddings(context, range(queries))
    chosen, shares = represent(rows, asked.mean(dim=0), size)
    strongest = influence_matrix(context, list(range(queries))).sum(dim=0).topk(size).indices.tolist()
    random = [
        torch.randperm(len(rows), generator=torch.Generator().manual_seed(n))[:size].tolist() for n in range(draws)
    ]
    lists = {"Fisher kernel": [chosen] * draws, "largest summed influence": [strongest] * draws, "random": random}
    losses = _training_losses(context)
    return {
        "explained": shares[-1],
        "loss": float(losses[chosen].mean()),
        "loss of all": float(losses.mean()),
        **{
            name: [_accuracy(context, positions, queries, seed) for seed, positions in enumerate(of)]
            for name, of in lists.items()
        },
    }


def _training_losses(context: AuditContext) -> Tensor:
    """Of the model explained, [N] float64."""
    classifier = context.explainer.classifier
    examples = context.data.batch(range(len(context.data)))
    with torch.no_grad():
        return classifier.loss.per_example(classifier.model(examples.tensor).double(), examples.labels)


def _accuracy(context: AuditContext, positions: Sequence[int], queries: int, seed: int) -> float:
    """Of a model trained on some examples, on the held-out ones that were not asked about."""
    model = trained_on(context.explainer.classifier.spec, context.data.batch(positions), seed)
    asked = context.held_out.batch(range(queries, len(context.held_out)))
    return accuracy(model, asked.tensor, asked.labels)


def _shown(accuracies: Sequence[float]) -> str:
    mean, half = interval(accuracies)
    return f"{mean:.1%} ± {half:.1%}"


def _losses(of: dict[str, Any]) -> str:
    return f"{of['loss']:.3f}, {of['loss of all']:.3f}"


def _claim(found: dict[str, dict[str, Any]]) -> Claim:
    size, of = list(found.items())[len(found) // 2]
    return Claim(
        "Fisher kernels find training points that represent the test data (Khanna et al. 2019)",
        "reviewed, not run",
        f"{size} chosen: accuracy {_shown(of['Fisher kernel'])}, random {_shown(of['random'])}, largest summed "
        f"influence {_shown(of['largest summed influence'])}",
        is_better_than_chance(found),
        "judged by a model trained on the set: it must be better at every size, and fails where it is worse at one. "
        f"Gradients are largest where a model errs: loss of what was chosen and of all {_losses(of)}",
    )


def is_better_than_chance(found: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether at every size what the Fisher kernel chose makes better models than what was drawn, over trainings."""
    return both(*(above(differences(of["Fisher kernel"], of["random"])) for of in found.values()))


def _paragraph(found: dict[str, dict[str, Any]], whole: float) -> str:
    told = "; ".join(
        f"{size}: {_shown(of['Fisher kernel'])} and {_shown(of['random'])}" for size, of in found.items()
    )
    return (
        f"Accuracy of a model trained on the chosen examples and on random ones, by how many: {told}; trained on all "
        f"{whole:.1%}."
    )


def _picture(found: dict[str, dict[str, Any]], whole: float) -> Picture:
    sizes = [int(size) for size in found]
    with drawing():
        figure = new_figure(5.6, 3.2)
        axes = figure.subplots()
        for method, colour in zip(METHODS, (BLUE, GREY, ORANGE), strict=True):
            means, halves = zip(*(interval(of[method]) for of in found.values()), strict=True)
            axes.errorbar(sizes, means, halves, fmt="o-", color=colour, capsize=3, label=method)
        axes.axhline(whole, color=GREY, linestyle=":", label="all training examples")
        axes.set(xlabel="training examples", ylabel="held-out accuracy")
        axes.legend(fontsize=8)
    return Picture(figure, "Accuracy of models trained on few examples, chosen in three ways")
