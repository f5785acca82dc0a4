"""From inputs to what the index is asked: predictions, and phi of each input at its own target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.attribution.gradients.capture import CaptureSession, Use
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.gradients.scaling import (
    ScaledGradient,
    contrast_output_gradient,
    scaled_output_gradient,
)
from proponent.attribution.gradients.tried_uses import TriedUses
from proponent.attribution.inputs import Example, NamedInputs, grouped, tensors_of
from proponent.bounds.cancellation import Token, always, checkpoint
from proponent.classifier import Classifier
from proponent.cuda_graphs import Replay
from proponent.errors import DeadlineError, InvalidInputError, ProponentError
from proponent.explainer.predictor import UNEXPLAINED, ForwardPass, blame_inputs
from proponent.options import Target
from proponent.results import Prediction
from proponent.single_precision import single_precision
from proponent.stages import Stopwatch

T = TypeVar("T")
FOLLOWED_OUTPUTS = 32
"""Outputs whose gradients are computed where the classes are many: one backward each."""
CHECKED = 2
"""Replays of a recorded model that are compared with the model itself."""
FIGURES = 5
"""Columns of `EmbeddedBatch.figures` behind the probabilities."""

Choice = tuple[int, int | None]
"""The class explained and, in a contrast, the class argued against."""


@dataclass(frozen=True)
class EmbeddedQuery:
    """One input as the index sees it.

    Attributes:
        direction: phi / ||phi||, [K] float32; zero where there is no direction.
        norm: ||phi||.
        scale: Largest entry of the output gradient, 0 where the loss is flat.
        target: Class whose loss is explained.
        against: Class argued against in a contrast.
    """

    prediction: Prediction
    direction: Tensor
    norm: float
    scale: float
    has_direction: bool
    target: int
    against: int | None = None


@dataclass(frozen=True)
class FollowedOutputs:
    """The model's outputs for one input, and how the followed ones depend on the parameters.

    Attributes:
        outputs: [1, C], or [1] or [1, 1] for one output; float64.
        followed: Positions in the flattened outputs, [F] int64.
        rows: Embedded gradients of these outputs, [F, K] float64.
    """

    outputs: Tensor
    followed: Tensor
    rows: Tensor

    def moved(self, shift: Tensor) -> Tensor:
        """The outputs after a shift [K] of the parameters; those not followed stay as they are."""
        flat = self.outputs.flatten().clone()
        flat[self.followed] += self.rows @ shift
        return flat.view_as(self.outputs)

    def margins(self, predicted: int) -> list[tuple[int, float, Tensor]]:
        """For each other class followed: its id, the predicted class's margin over it and the gradient [K]."""
        flat = self.outputs.flatten()
        if len(flat) == 1:
            sign = 1.0 if predicted == 1 else -1.0
            return [(1 - predicted, float(sign * flat[0]), sign * self.rows[0])]
        place = {int(class_id): f for f, class_id in enumerate(self.followed)}
        own = self.rows[place[predicted]]
        return [
            (class_id, float(flat[predicted] - flat[class_id]), own - self.rows[f])
            for class_id, f in place.items()
            if class_id != predicted
        ]


def margin(outputs: Tensor, predicted: int) -> float:
    """The predicted class's margin over the strongest other one; [1, C], or [1] or [1, 1] for one output."""
    flat = outputs.flatten()
    if len(flat) == 1:
        return float(flat[0]) if predicted == 1 else -float(flat[0])
    others = torch.cat([flat[:predicted], flat[predicted + 1 :]])
    return float(flat[predicted] - others.max())


@dataclass(frozen=True)
class EmbeddedBatch:
    """A batch of inputs on the model's device, where it may still be computed; reading it waits for that.

    Attributes:
        directions: phi / ||phi||, [B, K] float32.
        figures: Probabilities of the classes, then predicted class, class explained, norm, scale and whether there is
            a direction, [B, C + 5] float64.
    """

    directions: Tensor
    figures: Tensor

    @classmethod
    def of(
        cls, phi: Tensor, scaled: ScaledGradient, probabilities: Tensor, classes: Sequence[Tensor]
    ) -> EmbeddedBatch:
        """From phi [B, K] float64 for unit-scaled gradients, [B, C] probabilities and [B] classes."""
        norms = phi.norm(dim=1)
        columns = [*classes, norms * scaled.scale, scaled.scale, scaled.has_direction & (norms > 0)]
        figures = torch.cat([probabilities, torch.stack([column.double() for column in columns], dim=1)], dim=1)
        return cls((phi / positive_or_one(norms)[:, None]).float(), figures)

    @classmethod
    def of_groups(cls, parts: Sequence[EmbeddedBatch], places: Sequence[int]) -> EmbeddedBatch:
        """Of inputs that were computed in groups, given the place of each."""
        order = torch.tensor(places).argsort()
        columns = [torch.cat([getattr(part, name) for part in parts]) for name in ("directions", "figures")]
        return cls(*(column[order.to(column.device)] for column in columns))


@dataclass(frozen=True)
class PendingQueries:
    """A batch that was begun, what was asked of it, and who did not wait long enough."""

    batch: EmbeddedBatch
    targets: Sequence[Target]
    late: Sequence[DeadlineError | None]


class Embedding(Protocol):
    """Maps gradients of the covered layers to R^K."""

    def embed(self, gradients: LayerGradients) -> Tensor:
        """phi, [B, K] float32."""


class QueryEmbedder(ForwardPass):
    """Runs the model forwards and backwards. Not thread-safe: hooks on the model are per call."""

    def __init__(self, classifier: Classifier, embedding: Embedding, layers: Layers) -> None:
        super().__init__(classifier)
        self.embedding = embedding
        self.layers = layers
        self._tried = TriedUses(classifier.model, layers)
        self._replay = Replay.on(classifier.device, checked=CHECKED)

    def embed(
        self,
        inputs: Sequence[Example],
        targets: Sequence[Target],
        clock: Stopwatch,
        tokens: Sequence[Token] | None = None,
    ) -> list[EmbeddedQuery | ProponentError]:
        """Predictions and phi of a batch, each at its own target.

        An input whose token does not hold any more after the forward gets that error and no gradient; the backward
        is not begun when none does.
        """
        pending = self.begin(inputs, targets, clock, tokens)
        return self.finish(pending)

    def begin(
        self,
        inputs: Sequence[Example],
        targets: Sequence[Target],
        clock: Stopwatch,
        tokens: Sequence[Token] | None = None,
    ) -> PendingQueries:
        """Does what ``embed`` does and reads nothing, so that a GPU is not waited for."""
        groups, given = grouped(inputs), tokens or [always] * len(inputs)
        if len(groups) == 1:
            return self._begin(inputs, targets, clock, given)
        parts = [self._begin(_at(inputs, some), _at(targets, some), clock, _at(given, some)) for some in groups]
        late = [error for part in parts for error in part.late]
        places = [place for group in groups for place in group]
        batch = EmbeddedBatch.of_groups([part.batch for part in parts], places)
        return PendingQueries(batch, targets, [late[places.index(n)] for n in range(len(inputs))])

    def _begin(
        self, inputs: Sequence[Example], targets: Sequence[Target], clock: Stopwatch, tokens: Sequence[Token]
    ) -> PendingQueries:
        """The same of inputs of one shape."""
        asked = _classes(targets, len(self.classifier.class_names))
        asked = asked.to(self.classifier.device, non_blocking=True)
        has_contrast = any(target.against is not None for target in targets)
        with single_precision():
            if self._replay is not None:
                checkpoint()
                late = [_lateness(token) for token in tokens]
                return PendingQueries(self._replayed(self._replay, inputs, asked, clock, has_contrast), targets, late)
            with CaptureSession(self.classifier.model, self.layers) as session:
                with clock.stage("forward"), blame_inputs(inputs[0]):
                    outputs = session.forward(self.stack(inputs))
                checkpoint()
                late = [_lateness(token) for token in tokens]
                _check_seen(session.problems())
                uses, waits = session.uses(), torch.tensor([error is None for error in late])
                batch = self._embedded(session, outputs, asked, clock, has_contrast, None if all(waits) else waits)
            self._check_uses(uses, inputs)
        return PendingQueries(batch, targets, late)

    def _check_uses(self, uses: frozenset[Use], inputs: Sequence[Example]) -> None:
        """Refuses inputs for which the model uses a layer as hooks do not see it."""
        if not self._tried.knows(uses):
            found = self._tried.faults(uses, self.stack(inputs))
            _check_seen({layer: fault.why for layer, fault in found.items()})

    def _replayed(
        self, replay: Replay, inputs: Sequence[Example], asked: Tensor, clock: Stopwatch, has_contrast: bool
    ) -> EmbeddedBatch:
        """All of it as one CUDA graph, where one was recorded: the stages are one, and no deadline is looked at.

        What is replayed uses layers as the recorded forward did, which is looked at before it counts as one.
        """
        parts = tensors_of(self.stack(inputs))

        def compute(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            named = dict(zip(parts, tensors, strict=False))
            with CaptureSession(self.classifier.model, self.layers) as session:
                outputs = session.forward(named.get("", NamedInputs(named)))
                _check_seen(session.problems())
                uses = session.uses()
                found = self._embedded(session, outputs, tensors[-1], Stopwatch(), has_contrast)
            self._check_uses(uses, inputs)
            return found.directions, found.figures

        with clock.stage("embed"), blame_inputs(inputs[0]):
            return EmbeddedBatch(*replay((*parts, has_contrast), compute, *parts.values(), asked))

    def _embedded(
        self,
        session: CaptureSession,
        outputs: Tensor,
        asked: Tensor,
        clock: Stopwatch,
        has_contrast: bool,
        waits: Tensor | None = None,
    ) -> EmbeddedBatch:
        """What follows the forward; those who do not wait for it [B] bool get no gradient."""
        with clock.stage("backward"):
            predicted = self.classifier.loss.predict(outputs)
            wanted = torch.where(asked[0] < 0, predicted, asked[0])
            scaled = self._output_gradients(outputs, wanted, asked[1] if has_contrast else None)
            if waits is not None:
                scaled = scaled.without(~waits.to(outputs.device, non_blocking=True))
            gradients = session.backward(scaled.unit)
        with clock.stage("embed"):
            phi = self.embedding.embed(gradients).double()
            probabilities = self.classifier.loss.probabilities(outputs.double())
            return EmbeddedBatch.of(phi, scaled, probabilities, (predicted, wanted))

    def finish(self, pending: PendingQueries) -> list[EmbeddedQuery | ProponentError]:
        """Reads a batch."""
        figures = pending.batch.figures.cpu()
        probabilities, rest = figures[:, :-FIGURES], figures[:, -FIGURES:].tolist()
        predictions = self.told(probabilities, [int(row[0]) for row in rest])
        waited_for = [late or prediction for late, prediction in zip(pending.late, predictions, strict=True)]
        choices = [self.choice(p, t) for p, t in zip(waited_for, pending.targets, strict=True)]
        return [
            _embedded(prediction, choice, direction, row)
            for prediction, choice, direction, row in zip(
                waited_for, choices, pending.batch.directions, rest, strict=True
            )
        ]

    def follow(self, value: Example, classes: Sequence[int]) -> FollowedOutputs:
        """The outputs of one input and the gradients of the largest of them and of ``classes``."""
        with single_precision(), CaptureSession(self.classifier.model, self.layers) as session:
            outputs = session.forward(self.stack([value]))
            flat = outputs.flatten()
            followed = flat.topk(min(FOLLOWED_OUTPUTS, len(flat))).indices.tolist()
            followed = sorted({*followed, *(c for c in classes if len(flat) > 1)})
            rows = []
            for position in followed:
                checkpoint()
                seed = torch.zeros_like(flat)
                seed[position] = 1.0
                rows.append(self.embedding.embed(session.backward(seed.view_as(outputs))).double().cpu())
        return FollowedOutputs(outputs.double().cpu(), torch.tensor(followed), torch.cat(rows))

    def choice(self, prediction: Prediction | ProponentError, target: Target) -> Choice | ProponentError:
        """The classes that a target names, or why it cannot be explained."""
        if isinstance(prediction, ProponentError):
            return prediction
        count = len(self.classifier.class_names)
        for value, name in ((target.class_id, "class_id"), (target.against, "contrast.against_class_id")):
            if value is not None and not 0 <= value < count:
                return InvalidInputError(
                    f"class {value} is unknown, expected 0..{count - 1}",
                    field=f"target.{name}",
                    reason="CLASS_UNKNOWN",
                )
        wanted = prediction.class_id if target.class_id is None else target.class_id
        if target.against == wanted:
            return InvalidInputError(
                f"contrast of class {wanted} with itself", field="target.contrast", reason="CONTRAST_SAME_CLASS"
            )
        return wanted, target.against

    def _output_gradients(self, outputs: Tensor, wanted: Tensor, against: Tensor | None) -> ScaledGradient:
        """At once for all; contrasts where ``against`` [B] is not negative, zero where the outputs are not finite."""
        loss = self.classifier.loss
        found = scaled_output_gradient(loss, outputs, wanted)
        if against is not None:
            contrasts = contrast_output_gradient(loss, outputs, wanted, torch.where(against < 0, wanted, against))
            found = found.replaced(against >= 0, contrasts)
        return found.without(~torch.isfinite(found.scale))


def _classes(targets: Sequence[Target], count: int) -> Tensor:
    """The classes explained and argued against, [2, B] int64; -1 for the predicted one, none, or an unknown one."""

    def known(class_id: int | None) -> int:
        return class_id if class_id is not None and 0 <= class_id < count else -1

    return torch.tensor([[known(t.class_id) for t in targets], [known(t.against) for t in targets]])


def _check_seen(problems: Mapping[str, str]) -> None:
    for layer, why in problems.items():
        raise InvalidInputError(
            f"this input can be predicted but not explained: the model uses its layer {layer!r} otherwise than for "
            f"the training examples, and its gradient cannot be told: {why}",
            field="input",
            reason=UNEXPLAINED,
        )


def _at(values: Sequence[T], places: Sequence[int]) -> list[T]:
    return [values[place] for place in places]


def _lateness(token: Token) -> DeadlineError | None:
    """Why a token does not hold."""
    try:
        token()
    except DeadlineError as error:
        return error
    return None


def _embedded(
    prediction: Prediction | ProponentError,
    choice: Choice | ProponentError,
    direction: Tensor,
    figures: Sequence[float],
) -> EmbeddedQuery | ProponentError:
    """One input by the figures that were read."""
    if isinstance(prediction, ProponentError):
        return prediction
    if isinstance(choice, ProponentError):
        return choice
    norm, scale, has_direction = figures[2:]
    if not math.isfinite(norm):
        return InvalidInputError("the gradient of the model's loss is not finite for this input", field="input")
    return EmbeddedQuery(prediction, direction, norm, scale, bool(has_direction), *choice)
