"""What if some of the examples that argued for a prediction were gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proponent.display.figures import percents
from proponent.explainer import Explainer
from proponent.options import Estimator, Target
from proponent.reports.inputs import Input
from proponent.results import FlipSet, Influence, Prediction

GROUPS = (("the first", 1), ("the first three", 3))
_SHOWN = 12


@dataclass(frozen=True)
class Removal:
    """What removing some examples is predicted to change, to second order.

    Attributes:
        what: Which they are, in words.
        loss_change: Of the predicted label's loss; None where it was not estimated.
        after: Probabilities in class order.
        winner: Number of the class then predicted.
        odds: Probability of the label predicted now: now, and then.
    """

    what: str
    examples: Sequence[Influence]
    loss_change: float | None
    after: Sequence[float]
    winner: int
    odds: tuple[str, str]

    @property
    def shown(self) -> str:
        """Ids of its examples, cut short."""
        ids = [example.example_id for example in self.examples]
        return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")


def without_the_first(explainer: Explainer, asked: Input, proponents: Sequence[Influence]) -> list[Removal]:
    """Without the first proponents of influence, where there are so many and others are left."""
    left = explainer.catalog.count()
    groups = [(what, proponents[:size]) for what, size in GROUPS if size <= len(proponents) and size < left]
    return [_estimated(explainer, asked, what, examples) for what, examples in groups]


def _estimated(explainer: Explainer, asked: Input, what: str, examples: Sequence[Influence]) -> Removal:
    ids = [example.example_id for example in examples]
    found = explainer.estimate_removal(asked.value, Target(), ids, estimator=Estimator.SECOND_ORDER)
    after = found.probabilities_after
    winner = max(range(len(after)), key=after.__getitem__)
    return Removal(what, examples, found.loss_change, after, winner, _odds(found.prediction, after))


def flipping(found: FlipSet) -> Removal | None:
    """The smallest set found that flips the prediction, or None."""
    if not found.members:
        return None
    size, after = len(found.members), found.probabilities_after
    what = f"{size} that are predicted to flip it" if size > 1 else "the one that is predicted to flip it"
    return Removal(what, found.members, None, after, found.flipped_class_id, _odds(found.prediction, after))


def _odds(prediction: Prediction, after: Sequence[float]) -> tuple[str, str]:
    return percents(prediction.probabilities[prediction.class_id], after[prediction.class_id])
