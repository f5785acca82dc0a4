"""What the figures say, in words that need no knowledge of the method; the explorer's page says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from proponent.display.figures import count, counted, figure, percent, percents


@dataclass(frozen=True)
class Method:
    """A column of lists: its name, and what one of its scores says."""

    name: str
    says: str


METHODS: Mapping[str, Method] = {
    "influence": Method(
        "Influence (IF)",
        "What moved this prediction most, outliers included. A score divided by the number of training examples is "
        "about how much the loss rises without the example, where the others keep their weights.",
    ),
    "theta-relatif": Method(
        "θ-RelatIF",
        "Influence in relation to how far the example moves the whole model: it finds what speaks about this input "
        "in particular.",
    ),
    "l-relatif": Method(
        "ℓ-RelatIF",
        "Influence in relation to how much the example weighs on all predictions: outliers that influence everything "
        "step back.",
    ),
    "divine": Method(
        "DIVINE",
        "Influence again, chosen so that the list does not repeat itself. Same scores and scale as IF.",
    ),
}
SIGN = "Plus: training on the example made {label} more likely for this input. Minus: less likely."


def lead(label: str, proponents: int) -> str:
    """What stands above the lists.

    >>> lead("3", 5), lead("3", 0)
    ('These training examples argued for 3.', 'No training example argued for 3.')
    """
    if not proponents:
        return f"No training example argued for {label}."
    return f"{'This training example' if proponents == 1 else 'These training examples'} argued for {label}."


def removal(names: Sequence[str], target: int, group: str, before: Sequence[float], after: Sequence[float]) -> str:
    r"""What a group's removal is predicted to do to the predicted label.

    >>> removal(["cat", "dog"], 0, "the first", [0.9, 0.1], [0.8, 0.2])
    'Without the first, the model would be less sure: 80.0\xa0% instead of 90.0\xa0%.'
    """
    winner = max(range(len(after)), key=after.__getitem__) if len(after) else target
    was, would = percents(before[target], after[target])
    if winner != target:
        label = f"{names[target]} would get {would} instead of {was}"
        return f"Without {group}, the model would say {names[winner]}: {label}."
    if was == would:
        return f"Without {group}, {names[target]} would get what it gets now: {was}."
    less = "less sure" if after[target] < before[target] else "even surer"
    return f"Without {group}, the model would be {less}: {would} instead of {was}."


def kept(share: float, similarity: float, plain: float) -> str:
    """What a diverse list costs and gives."""
    alike = f"{figure(similarity, 2)} alike on average, not {figure(plain, 2)} (1 is the same)"
    return f"Keeps {percent(share)} of IF's influence; {alike}."


def trust(curvature: str, kept_energy: float, audit: Mapping[str, Any]) -> list[str]:
    """How far the answers can be trusted, from what audits of the bundle measured."""
    how = (
        "the exact curvature" if curvature == "exact" else f"an approximation of the curvature ({curvature.upper()})"
    )
    said = [
        f"The scores were computed with {how} of the loss; the index keeps {percent(kept_energy)} of what the "
        "training examples can say."
    ]
    agreement = audit.get("spearman")
    if isinstance(agreement, float) and isfinite(agreement):
        source = "held-out inputs" if audit.get("queries_from") == "held-out set" else "inputs"
        said.append(
            f"On {count(audit['queries'])} {source} the stored vectors rank training examples "
            f"{_closeness(agreement)} ({figure(agreement, 4)} of 1)."
        )
    said.append(_retrained(audit.get("lds")))
    return said


def _retrained(lds: Mapping[str, Any] | None) -> str:
    if not lds:
        return "Nobody has measured it against really retrained models yet (proponent audit does)."
    low, high = lds["interval_95"]
    models = counted(lds["subsets"], "model")
    return (
        f"Measured against {models} that were really retrained, predicted and real changes agree to "
        f"{figure(lds['mean'])} of 1 (linear datamodeling score; 95\xa0% interval {figure(low)} to "
        f"{figure(high)}). {_possible(lds.get('ceiling'))}"
    )


def _possible(ceiling: float | None) -> str:
    if ceiling is None:
        return "How high a score could be was not measured: that takes several trainings of each subset."
    return f"Trainings differ among themselves, so that no method would reach more than {figure(ceiling)}."


def _closeness(correlation: float) -> str:
    for least, words in ((0.9999, "exactly"), (0.98, "almost"), (0.9, "much"), (0.6, "roughly")):
        if correlation > least:
            return f"{words} as the full computation does"
    return "only loosely as the full computation does: take single ranks with care"


def damping(value: float, relative: bool) -> str:
    """What was added to the curvature."""
    if value == 0:
        return "Nothing was added to the curvature (no damping)."
    unit = " of each layer's mean" if relative else ""
    return f"The curvature was damped by {figure(value)}{unit}: more makes scores steadier and less particular."
