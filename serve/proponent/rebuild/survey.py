"""The first pass over the training set: does the model do what the spec says, and what is in the catalogue.

A wrong transform, class order or weights file is the commonest silent mistake of all: it shows as a training
accuracy below the expected one. A gradient of the objective far from zero says that the model is no minimum,
so that influence as a prediction of retraining holds only roughly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.capture import CaptureSession
from proponent.attribution.gradients import scaled_output_gradient
from proponent.attribution.layers import Layers, flatten_parameters, num_parameters
from proponent.attribution.soundness import check_gradients
from proponent.classifier import Classifier
from proponent.errors import ProponentError, SpecError, TrainingMismatchError
from proponent.rebuild.stages import Stages
from proponent.rebuild.training_set import Batch

STATIONARY = 0.05
"""Ratio of the objective's gradient norm to the mean example's above which a rebuild warns."""


@dataclass(frozen=True)
class Survey:
    """What the first pass found.

    Attributes:
        predictions: Predicted class of each training example, [N] int64.
        labels: [N] int64.
        accuracy: Share of examples predicted as labelled.
        gradient_norm_ratio: ||mean_i g_i + wd theta|| / mean_i ||g_i|| over covered parameters.
    """

    predictions: Tensor
    labels: Tensor
    accuracy: float
    gradient_norm_ratio: float


def survey(stages: Stages) -> Survey:
    """Runs the pass.

    Raises:
        TrainingMismatchError: Accuracy below ``expected_accuracy``.
        SpecError: Outputs do not fit the classes.
    """
    classifier, layers, count = stages.classifier, stages.layers, len(stages.data)
    predictions: list[Tensor] = []
    labels: list[Tensor] = []
    total = torch.zeros(num_parameters(layers), dtype=torch.float64, device=classifier.device)
    norms = 0.0
    for batch in stages.progress.track("survey", stages.batches(), stages.batching.count(count)):
        outputs, summed, squares = _gradients(classifier, layers, batch)
        if not predictions:
            _check_gradients(classifier, layers, batch, outputs)
        predictions.append(classifier.loss.predict(outputs).cpu())
        labels.append(batch.labels.cpu())
        total += summed
        norms += float(squares.sqrt().sum())
    result = Survey(
        predictions=torch.cat(predictions),
        labels=torch.cat(labels),
        accuracy=float((torch.cat(predictions) == torch.cat(labels)).double().mean()),
        gradient_norm_ratio=_ratio(classifier, layers, total / count, norms / count),
    )
    _check_accuracy(classifier, result.accuracy)
    return result


def _gradients(classifier: Classifier, layers: Layers, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the summed gradient [P] and each example's squared norm [B], one layer after the other."""
    with CaptureSession(classifier.model, layers) as session:
        with _users_model(batch.inputs):
            outputs = session.forward(batch.inputs)
        check_outputs(classifier, outputs)
        output_gradient = classifier.loss.output_gradient(outputs, batch.labels)
        with _users_model(batch.inputs):
            gradients = session.backward(output_gradient)
    sums, squares = [], []
    for gradient in gradients.values():
        total, norms = gradient.sum_and_squares()
        sums.append(total.double().flatten())
        squares.append(norms)
    return outputs, torch.cat(sums), torch.stack(squares).sum(dim=0)


def _check_gradients(classifier: Classifier, layers: Layers, batch: Batch, outputs: Tensor) -> None:
    if bool(outputs.isfinite().all()):
        unit = scaled_output_gradient(classifier.loss, outputs, batch.labels).unit
        with _users_model(batch.inputs):
            check_gradients(classifier.model, layers, batch.inputs, unit)


@contextmanager
def _users_model(inputs: Tensor) -> Iterator[None]:
    """Names the model where the user's code fails."""
    try:
        yield
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise SpecError(
            f"key 'model': it fails on inputs of shape {list(inputs.shape)} as 'dataset' and 'transform' give them: "
            f"{type(error).__name__}: {error}",
            field="model",
        ) from error


def check_outputs(classifier: Classifier, outputs: Tensor) -> None:
    """Raises SpecError where the model's outputs do not fit the spec's class names."""
    classes = classifier.loss.num_classes(outputs)
    if classes != len(classifier.class_names):
        raise SpecError(
            f"key 'class_names' has {len(classifier.class_names)} names, but the model has {classes} classes "
            f"(outputs of shape {list(outputs.shape)})",
            field="class_names",
        )


def _ratio(classifier: Classifier, layers: Layers, mean: Tensor, mean_norm: float) -> float:
    parameters = dict(classifier.model.named_parameters())
    theta = flatten_parameters({name: value.detach() for name, value in parameters.items()}, layers).double()
    objective = mean + classifier.spec.weight_decay * theta
    return float(objective.norm()) / mean_norm if mean_norm > 0 else 0.0


def _check_accuracy(classifier: Classifier, accuracy: float) -> None:
    expected = classifier.spec.expected_accuracy
    if accuracy < expected:
        raise TrainingMismatchError(
            f"training accuracy is {accuracy:.4f}, expected at least {expected:.4f} (expected_accuracy): "
            "check the transform, the order of class_names and the weights file",
            field="expected_accuracy",
        )
