"""What if these training examples were removed: predicted losses, probabilities and flips of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from proponent.attribution.embedding.base import ExactEmbedding
from proponent.attribution.functional import current_parameters
from proponent.attribution.groups import (
    Population,
    first_order_shift,
    influence_sum_shift,
    second_order_shift,
)
from proponent.attribution.inputs import Example
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer.answers import Answers
from proponent.explainer.query import Choice, EmbeddedQuery, FollowedOutputs, QueryEmbedder, margin
from proponent.explainer.retrieval import Retrieval
from proponent.explainer.rivals import Rival, Rivals
from proponent.index.bundle import Manifest
from proponent.options import Estimator, Measure, Target, View
from proponent.results import FlipSet, Influence, Notice, NoticeCode, RemovalEstimate
from proponent.stages import Stopwatch, stage

DEFAULT_FLIP_PART = 10


class Removals:
    """Answers about groups, for one input at a time."""

    def __init__(self, embedder: QueryEmbedder, retrieval: Retrieval, answers: Answers, manifest: Manifest) -> None:
        self._embedder = embedder
        self._retrieval = retrieval
        self._answers = answers
        self._manifest = manifest
        self._index = retrieval.index
        self._loss = embedder.classifier.loss

    @cached_property
    def _population(self) -> Population:
        """One pass over the rows at the first call that needs it."""
        found, mean = Population.of(self._index, self._index.scales.norms), self._mean_without_rows()
        return found if mean is None else replace(found, mean=mean)

    def _mean_without_rows(self) -> Tensor | None:
        """The mean row of all that the model was trained on, [K] float64, where a compaction has removed some.

        At a minimum it is minus the weight decay's gradient, which no example is needed for: the mean itself, kept,
        would tell the last row removed. None where the mean of the rows left is nearer.
        """
        embedding, manifest = self._embedder.embedding, self._manifest
        nearer = manifest.gradient_norm_ratio < manifest.forgotten_rows / manifest.train_size
        if not nearer or not isinstance(embedding, ExactEmbedding):
            return None
        theta = current_parameters(self._embedder.classifier.model, self._embedder.layers, embedding.basis.dtype)
        return (-manifest.weight_decay * (theta @ embedding.basis)).double().cpu()

    def estimate(
        self, value: Example, target: Target, example_ids: Sequence[str], estimator: Estimator
    ) -> RemovalEstimate:
        """Predicts the effect of removing a group on one input; see ``attribution.groups``.

        The second-order change of the loss is that at the outputs predicted after the removal, and so are all
        probabilities; the other estimators take the loss to be linear in the parameters.

        Raises:
            NotFoundError: An id is unknown.
            InvalidInputError: An unknown class, or a group of the whole training set.
        """
        members = self._members(self._retrieval.rows_of(example_ids))
        query = self._one(value, target)
        with stage("removal"):
            followed = self._embedder.follow(value, [c for c in (query.target, target.against) if c is not None])
            shift = self._shift(members, estimator)
        after = followed.moved(shift)
        linear = query.norm * float(query.direction.cpu().double() @ shift)
        choice = (query.target, target.against)
        return RemovalEstimate(
            prediction=query.prediction,
            loss_change=self._loss_change(followed, after, choice) if estimator is Estimator.SECOND_ORDER else linear,
            probabilities_after=self._loss.probabilities(after)[0].tolist(),
            group_size=int(members.sum()),
            bundle_digest=self._manifest.digest,
            train_size=self._manifest.train_size,
            notices=self._answers.notices(query, [Measure.INFLUENCE]),
        )

    def find_flip_set(self, value: Example, max_size: int) -> FlipSet:
        """Looks for a small set whose removal is predicted, to second order, to change the predicted class.

        For each rival class the examples are ordered by their influence on the margin over it; the rival that
        needs fewest to first order is chosen, and the shortest such prefix whose second-order estimate flips the
        prediction is returned. It is greedy: another set may be smaller, a set may exist where none is found,
        and a predicted flip is not a promise, above all for networks, whose retraining the estimate only ranks.

        Args:
            value: The input.
            max_size: Largest set; 0 means a tenth of the training set, and at least one example.
        """
        query = self._one(value, Target())
        with stage("removal"):
            return self._flip_set(query, value, max_size)

    def _flip_set(self, query: EmbeddedQuery, value: Example, max_size: int) -> FlipSet:
        followed = self._embedder.follow(value, [])
        limit = min(max_size or max(1, self._manifest.train_size // DEFAULT_FLIP_PART), len(self._index) - 1)
        predicted = query.prediction.class_id
        rivals = Rivals(self._index, self._population, self._manifest.train_size, self._retrieval.not_forgotten())
        best = rivals.nearest(followed.margins(predicted), limit)
        after = cache(partial(self._after, followed, best))
        start = margin(followed.outputs, predicted)
        size = _shortest(lambda count: margin(after(count), predicted), start, best.needed, len(best.rows))
        notices = self._answers.notices(query, [Measure.INFLUENCE])
        if size is None:
            message = f"no set of at most {limit} examples is predicted to flip the prediction"
            notices.append(Notice(NoticeCode.NO_FLIP_FOUND, message, limit))
        outputs = after(size) if size else followed.outputs
        return FlipSet(
            prediction=query.prediction,
            members=self._influences(best, size or 0),
            flipped_class_id=int(self._loss.predict(outputs)[0]),
            probabilities_after=self._loss.probabilities(outputs)[0].tolist(),
            bundle_digest=self._manifest.digest,
            notices=notices,
        )

    def _influences(self, rival: Rival, size: int) -> list[Influence]:
        rows = rival.rows[:size].tolist()
        return self._answers.influences(rows, rival.scores[:size].tolist(), View.ID_ONLY)

    def _after(self, followed: FollowedOutputs, rival: Rival, count: int) -> Tensor:
        return followed.moved(self._shift(self._members(rival.rows[:count].tolist()), Estimator.SECOND_ORDER))

    def _shift(self, members: Tensor, estimator: Estimator) -> Tensor:
        scales, train_size = self._index.scales, self._manifest.train_size
        if estimator is Estimator.INFLUENCE_SUM:
            return influence_sum_shift(self._index, scales.norms, members, train_size)
        if estimator is Estimator.FIRST_ORDER:
            return first_order_shift(self._index, scales.norms, members, train_size, self._population)
        return second_order_shift(self._index, scales.norms, scales.curvature, members, train_size, self._population)

    def _members(self, rows: Sequence[int]) -> Tensor:
        mask = torch.zeros(len(self._index), dtype=torch.bool)
        mask[list(rows)] = True
        if bool(mask.all()):
            raise InvalidInputError(
                f"the group holds all {len(mask)} training examples: nothing would be left to train on",
                field="example_ids",
                reason="GROUP_TOO_LARGE",
            )
        return mask

    def _one(self, value: Example, target: Target) -> EmbeddedQuery:
        [query] = self._embedder.embed([value], [target], Stopwatch())
        if isinstance(query, ProponentError):
            raise query
        return query

    def _loss_change(self, followed: FollowedOutputs, after: Tensor, choice: Choice) -> float:
        change = self._loss_at(after, choice[0]) - self._loss_at(followed.outputs, choice[0])
        if choice[1] is None:
            return change
        return change - (self._loss_at(after, choice[1]) - self._loss_at(followed.outputs, choice[1]))

    def _loss_at(self, outputs: Tensor, class_id: int) -> float:
        return float(self._loss.per_example(outputs, torch.tensor([class_id]))[0])


@dataclass(frozen=True)
class _Bracket:
    """Two counts of removals between which a margin turns negative.

    Attributes:
        low: Leaves the margin ``above``, >= 0.
        high: Leaves the margin ``below``, < 0.
    """

    low: int
    above: float
    high: int
    below: float

    @property
    def width(self) -> int:
        return self.high - self.low

    def middle(self) -> int:
        return (self.low + self.high) // 2

    def interpolated(self) -> int:
        """Where a straight line between both margins turns negative, inside."""
        crossing = round(self.low + self.width * self.above / (self.above - self.below))
        return min(max(crossing, self.low + 1), self.high - 1)

    def narrowed(self, count: int, margin: float) -> _Bracket:
        if margin < 0:
            return _Bracket(self.low, self.above, count, margin)
        return _Bracket(count, margin, self.high, self.below)


def _shortest(margin_after: Callable[[int], float], start: float, likely: int, limit: int) -> int | None:
    """The smallest count in 1..limit that leaves a negative margin, or None; more removals are taken to leave less.

    Interpolates between the margins found, and halves the interval where that did not.

    Args:
        margin_after: The margin after so many removals, which is expensive to compute.
        start: The margin before any.
        likely: A count that may suffice, 0..limit.
        limit: The largest count.
    """
    bracket, halve = _bracket(margin_after, start, likely, limit), False
    while bracket and bracket.width > 1:
        count = bracket.middle() if halve else bracket.interpolated()
        narrower = bracket.narrowed(count, margin_after(count))
        halve = narrower.width > bracket.width // 2
        bracket = narrower
    return bracket.high if bracket else None


def _bracket(margin_after: Callable[[int], float], start: float, likely: int, limit: int) -> _Bracket | None:
    """Tries the likely count first, then the limit; None where neither leaves a negative margin."""
    low, above = 0, start
    for count in (likely, limit):
        if count == low:
            continue  # nothing is likely, or the limit was tried already
        margin = margin_after(count)
        if margin < 0:
            return _Bracket(low, above, count, margin)
        low, above = count, margin
    return None
