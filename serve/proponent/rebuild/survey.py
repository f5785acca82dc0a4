"""The first pass over the training set: does the model do what the spec says, and what is in the catalog.

A wrong transform, class order or weights file is the commonest silent mistake of all: it shows as a training
accuracy below the expected one. A gradient of the objective far from zero says that the model is not at a minimum,
so that influence as a prediction of retraining holds only roughly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import Layers, flatten_parameters, num_parameters
from proponent.attribution.losses.outputs import look_like_probabilities
from proponent.classifier import Classifier, blame_user_model
from proponent.errors import SpecError, TrainingMismatchError
from proponent.rebuild.context import Compute, RebuildContext, concatenated
from proponent.rebuild.training_set import Batch
from proponent.rebuild.workspace import Workspace

STAGE = "survey"
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

    @property
    def without_gradients(self) -> bool:
        """Whether the gradient of every training example is zero."""
        return self.gradient_norm_ratio == 0


def cached_survey(context: RebuildContext) -> Survey:
    """What the first pass found, after running it where it is not finished; raises what `survey` raises."""
    if not context.workspace.has(STAGE):
        found = survey(context)
        numbers = torch.tensor([found.accuracy, found.gradient_norm_ratio], dtype=torch.float64)
        tensors = {"predictions": found.predictions, "labels": found.labels, "numbers": numbers}
        context.workspace.save(STAGE, tensors)
    context.workspace.discard(STAGE)
    return stored_survey(context.workspace)


def stored_survey(workspace: Workspace) -> Survey:
    """What the first pass found."""
    stored = workspace.load(STAGE)
    accuracy, ratio = stored["numbers"].tolist()
    return Survey(stored["predictions"], stored["labels"], accuracy, ratio)


def survey(context: RebuildContext) -> Survey:
    """Runs the pass.

    Raises:
        TrainingMismatchError: Accuracy below ``expected_accuracy``.
        SpecError: Outputs do not fit the loss or the classes.
    """
    classifier, layers, count = context.classifier, context.layers, len(context.data)
    parts = context.parts(STAGE, SurveyTask(), range(count), num_parameters(layers))
    shown = concatenated([context.workspace.load_some(part, ["predictions", "labels"]) for part in parts])
    predictions, labels = shown["predictions"], shown["labels"]
    sums = context.total(parts, ["gradient", "norms", "others"])
    result = Survey(
        predictions=predictions,
        labels=labels,
        accuracy=float((predictions == labels).double().mean()),
        gradient_norm_ratio=_ratio(classifier, layers, sums["gradient"] / count, float(sums["norms"]) / count),
    )
    if not int(sums["others"]) and not classifier.spec.outputs_are_scores:
        raise _probabilities(classifier, count)
    check_accuracy(result.accuracy, classifier.spec.expected_accuracy)
    return result


@dataclass(frozen=True)
class SurveyTask:
    """Predictions and labels of a chunk, summed gradients and norms of them, and how many outputs are scores."""

    def prepare(self, context: RebuildContext) -> Compute:
        """See `Task`."""
        classifier, layers = context.classifier, context.layers

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            sums = {
                "gradient": torch.zeros(num_parameters(layers), dtype=torch.float64, device=classifier.device),
                "norms": torch.zeros((), dtype=torch.float64, device=classifier.device),
                "others": torch.zeros((), dtype=torch.int64, device=classifier.device),
            }

            def look(batch: Batch) -> dict[str, Tensor]:
                outputs, summed, squares = _gradients(classifier, layers, batch)
                sums["gradient"] += summed
                sums["norms"] += squares.sqrt().sum()
                sums["others"] += (~look_like_probabilities(outputs)).sum()
                return {"predictions": classifier.loss.predict(outputs).cpu(), "labels": batch.labels.cpu()}

            return {**context.of_each(positions, look), **sums}

        return compute


def _gradients(classifier: Classifier, layers: Layers, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the summed gradient [P] and each example's squared norm [B], one layer after the other."""
    with CaptureSession(classifier.model, layers) as session:
        with blame_user_model(batch.inputs):
            outputs = session.forward(batch.inputs)
        check_outputs(classifier, outputs)
        output_gradient = classifier.loss.output_gradient(outputs, batch.labels)
        with blame_user_model(batch.inputs):
            gradients = session.backward(output_gradient)
    sums, squares = [], []
    for gradient in gradients.values():
        total, norms = gradient.sum_and_squares()
        sums.append(total.double().flatten())
        squares.append(norms)
    return outputs, torch.cat(sums), torch.stack(squares).sum(dim=0)


def check_outputs(classifier: Classifier, outputs: Tensor) -> None:
    """Raises SpecError where the model's outputs do not fit the loss or the spec's class names."""
    classifier.loss.check_outputs(outputs)
    classes = classifier.loss.num_classes(outputs)
    if classes != len(classifier.class_names):
        raise SpecError(
            f"key 'class_names' has {len(classifier.class_names)} names, but the model has {classes} classes "
            f"(outputs of shape {list(outputs.shape)})",
            field="class_names",
        )


def _probabilities(classifier: Classifier, count: int) -> SpecError:
    """That all examples look so says it: a few scores may lie there by chance."""
    return SpecError(
        f"loss {classifier.spec.loss} takes scores as outputs (their softmax or sigmoid are the probabilities of "
        f"replies), but the outputs of all {count} training examples are in [0, 1] and, where there are several, sum "
        "to 1: softmax or sigmoid inside the model? Return what goes into it (log-softmax will do for several "
        "outputs; a loss of your own can apply it), or set outputs_are_scores: true if these are scores",
        field="loss",
    )


def _ratio(classifier: Classifier, layers: Layers, mean: Tensor, mean_norm: float) -> float:
    parameters = dict(classifier.model.named_parameters())
    theta = flatten_parameters({name: value.detach() for name, value in parameters.items()}, layers).double()
    objective = mean + classifier.spec.weight_decay * theta
    return float(objective.norm()) / mean_norm if mean_norm > 0 else 0.0


def check_accuracy(accuracy: float, expected: float) -> None:
    """Raises TrainingMismatchError where a training accuracy is below what a spec expects."""
    if accuracy < expected:
        raise TrainingMismatchError(
            f"training accuracy is {accuracy:.4f}, expected at least {expected:.4f} (expected_accuracy): "
            "check the transform, the order of class_names and the weights file",
            field="expected_accuracy",
        )
