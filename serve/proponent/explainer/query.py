"""From inputs to what the index is asked: predictions, and phi of each input at its own target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.gradients.scaling import (
    ScaledGradient,
    contrast_output_gradient,
    scaled_output_gradient,
)
from proponent.attribution.precision import single_precision
from proponent.bounds.cancellation import Token, always, checkpoint
from proponent.classifier import Classifier
from proponent.errors import DeadlineError, InvalidInputError, ProponentError
from proponent.explainer.predictor import ForwardPass
from proponent.options import Target
from proponent.results import Prediction
from proponent.stages import Stopwatch

FOLLOWED_OUTPUTS = 32
"""Outputs whose gradients are computed where the classes are many: one backward each."""

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
    """

    prediction: Prediction
    direction: Tensor
    norm: float
    scale: float
    has_direction: bool
    target: int


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

    def embed(
        self,
        inputs: Sequence[Tensor],
        targets: Sequence[Target],
        clock: Stopwatch,
        tokens: Sequence[Token] | None = None,
    ) -> list[EmbeddedQuery | ProponentError]:
        """Predictions and phi of a batch, each at its own target.

        An input whose token does not hold any more after the forward gets that error and no gradient; the backward
        is not begun when none does.
        """
        with single_precision(), CaptureSession(self.classifier.model, self.layers) as session:
            with clock.stage("forward"):
                outputs = session.forward(self.stack(inputs))
                predictions = self.predictions(outputs)
            checkpoint()
            waited_for = _unless_late(predictions, tokens or [always] * len(predictions))
            choices = [self.choice(p, t) for p, t in zip(waited_for, targets, strict=True)]
            with clock.stage("backward"):
                scaled = self._output_gradients(outputs, choices)
                gradients = session.backward(scaled.unit)
            with clock.stage("embed"):
                phi = self.embedding.embed(gradients).double()
        return _embedded(phi, scaled, waited_for, choices)

    def follow(self, value: Tensor, classes: Sequence[int]) -> FollowedOutputs:
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

    def _output_gradients(self, outputs: Tensor, choices: Sequence[Choice | ProponentError]) -> ScaledGradient:
        """At once for all that explain a class, and for all contrasts; zero where there is an error."""
        found = ScaledGradient(torch.zeros_like(outputs), outputs.new_zeros(len(outputs), dtype=torch.float64))
        classes = {b: choice for b, choice in enumerate(choices) if not isinstance(choice, ProponentError)}
        for is_contrast in (False, True):
            some = {b: choice for b, choice in classes.items() if (choice[1] is not None) == is_contrast}
            if some:
                found.put(list(some), self._of_classes(outputs, some))
        return found

    def _of_classes(self, outputs: Tensor, choices: Mapping[int, Choice]) -> ScaledGradient:
        """Of some rows of the outputs, either none or all of which are contrasts."""
        some, loss = outputs[list(choices)], self.classifier.loss
        wanted = torch.tensor([own for own, _ in choices.values()], device=outputs.device)
        others = [other for _, other in choices.values() if other is not None]
        if not others:
            return scaled_output_gradient(loss, some, wanted)
        return contrast_output_gradient(loss, some, wanted, torch.tensor(others, device=outputs.device))


def _unless_late(
    predictions: Sequence[Prediction | ProponentError], tokens: Sequence[Token]
) -> list[Prediction | ProponentError]:
    """Each prediction as long as its token holds, else why it does not."""
    found: list[Prediction | ProponentError] = []
    for prediction, token in zip(predictions, tokens, strict=True):
        try:
            token()
            found.append(prediction)
        except DeadlineError as error:
            found.append(error)
    return found


def _embedded(
    phi: Tensor,
    scaled: ScaledGradient,
    predictions: Sequence[Prediction | ProponentError],
    choices: Sequence[Choice | ProponentError],
) -> list[EmbeddedQuery | ProponentError]:
    norms = phi.norm(dim=1)
    directions = (phi / positive_or_one(norms)[:, None]).float()
    sizes, scales = (norms * scaled.scale).tolist(), scaled.scale.tolist()
    has_direction = (scaled.has_direction & (norms > 0)).tolist()
    found: list[EmbeddedQuery | ProponentError] = []
    for b, (choice, prediction) in enumerate(zip(choices, predictions, strict=True)):
        if isinstance(prediction, ProponentError):
            found.append(prediction)
        elif isinstance(choice, ProponentError):
            found.append(choice)
        elif not math.isfinite(sizes[b]):
            found.append(
                InvalidInputError("the gradient of the model's loss is not finite for this input", field="input")
            )
        else:
            found.append(EmbeddedQuery(prediction, directions[b], sizes[b], scales[b], has_direction[b], choice[0]))
    return found
