"""The first pass over the training set: does the model do what the spec says, and what is in the catalog.

A wrong transform, class order or weights file is the commonest silent mistake of all: it shows as a training
accuracy below the expected one. And layers that hooks get wrong for few examples alone show themselves here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.gradients.capture import CaptureSession, Use
from proponent.attribution.gradients.soundness import any_gradient, unsound_layers
from proponent.attribution.gradients.tried_uses import PARTIAL, TriedUses
from proponent.attribution.losses.outputs import is_single, look_like_probabilities
from proponent.classifier import Classifier, blame_user_model
from proponent.errors import SpecError, TrainingMismatchError
from proponent.rebuild.context import Compute, RebuildContext, Task, concatenated
from proponent.rebuild.training_set import Batch
from proponent.rebuild.workspace import Workspace

STAGE = "survey"


@dataclass(frozen=True)
class Survey:
    """What the first pass found.

    Attributes:
        predictions: Predicted class of each training example, [N] int64.
        labels: [N] int64.
        accuracy: Share of examples predicted as labelled.
        faults: For each layer, in order, 1 and the position of an example for which hooks get it wrong; 0: for none.
            [L] int64.
    """

    predictions: Tensor
    labels: Tensor
    accuracy: float
    faults: Tensor


def cached_survey(context: RebuildContext) -> Survey:
    """What the first pass found, after running it where it is not finished; raises what `survey` raises."""
    if not context.workspace.has(STAGE):
        found = survey(context)
        accuracy = torch.tensor(found.accuracy, dtype=torch.float64)
        tensors = {"predictions": found.predictions, "labels": found.labels, "faults": found.faults}
        tensors["accuracy"] = accuracy
        context.workspace.save(STAGE, tensors)
    context.workspace.discard(STAGE)
    return stored_survey(context.workspace)


def stored_survey(workspace: Workspace) -> Survey:
    """What the first pass found."""
    stored = workspace.load(STAGE)
    return Survey(stored["predictions"], stored["labels"], float(stored["accuracy"]), stored["faults"])


def faults_of(context: RebuildContext, found: Survey) -> dict[str, str]:
    """Layers that hooks get wrong for some training example, and why."""
    places = dict(zip(context.layers, found.faults.tolist(), strict=True))
    return {name: _fault(context, name, place - 1) for name, place in places.items() if place}


def _fault(context: RebuildContext, name: str, position: int) -> str:
    model, inputs = context.classifier.model, context.data.batch([position]).inputs
    with blame_user_model(inputs):
        with torch.no_grad():
            gradient = any_gradient(model(inputs.clone()))
        why = unsound_layers(model, context.layers, inputs, gradient, brief=True).get(name, PARTIAL)
    return f"for example {context.data.example_id(position)!r}: {why}"


def survey(context: RebuildContext) -> Survey:
    """Runs the pass.

    Raises:
        TrainingMismatchError: Accuracy below ``expected_accuracy``.
        SpecError: Outputs do not fit the loss or the classes.
    """
    classifier, count = context.classifier, len(context.data)
    parts = context.map(STAGE, SurveyTask(), context.shards(STAGE))
    shown = concatenated([context.workspace.load_some(part, ["predictions", "labels"]) for part in parts])
    predictions, labels = shown["predictions"], shown["labels"]
    faults = torch.stack([context.workspace.load_some(part, ["faults"])["faults"] for part in parts]).amax(dim=0)
    result = Survey(predictions, labels, float((predictions == labels).double().mean()), faults)
    others = context.total(parts, ["others"])["others"]
    if not int(others) and not classifier.spec.outputs_are_scores:
        raise _probabilities(classifier, count)
    check_accuracy(result.accuracy, classifier.spec.expected_accuracy)
    return result


@dataclass(frozen=True)
class SurveyTask(Task):
    """Predictions and labels of a chunk, how many of its outputs are scores, and where hooks get layers wrong."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        classifier, tried = context.classifier, TriedUses(context.classifier.model, context.layers)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            others = torch.zeros((), dtype=torch.int64, device=classifier.device)
            faults, seen = torch.zeros(len(context.layers), dtype=torch.int64), 0

            def look(batch: Batch) -> dict[str, Tensor]:
                nonlocal seen
                outputs, uses, others_too = _forward(context, batch)
                there = [positions[p] for p in batch.places or range(seen, seen + len(batch.labels))]
                _check_finite(context, outputs, there)
                others.add_((~look_like_probabilities(outputs) | others_too).sum())
                with blame_user_model(batch.inputs):
                    found = tried.faults(uses, batch.inputs)
                for number, name in enumerate(context.layers):
                    if name in found:
                        faults[number] = 1 + there[found[name].place]
                seen += len(batch.labels)
                return {"predictions": classifier.loss.predict(outputs).cpu(), "labels": batch.labels.cpu()}

            return {**context.of_each(positions, look), "others": others, "faults": faults}

        return compute


def _forward(context: RebuildContext, batch: Batch) -> tuple[Tensor, frozenset[Use], bool]:
    """The outputs of some examples, how the model used its layers, and whether they are scores beyond doubt.

    One output within [0, 1] proves little of a model that was hardly trained. Several that sum to 1 do.
    """
    classifier, inputs = context.classifier, batch.inputs.clone()  # a model may change them in place
    with CaptureSession(classifier.model, context.layers) as session, blame_user_model(inputs):
        outputs = session.forward(inputs)
        check_outputs(classifier, outputs)
        return outputs, session.uses(), is_single(outputs) and session.are_products()


def _check_finite(context: RebuildContext, outputs: Tensor, positions: Sequence[int]) -> None:
    for position, good in zip(
        positions, outputs.reshape(len(outputs), -1).isfinite().all(dim=1).tolist(), strict=True
    ):
        if not good:
            name = context.data.example_id(position)
            raise SpecError(f"the model's outputs for example {name!r} are NaN or infinite", field="model")


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


def check_accuracy(accuracy: float, expected: float) -> None:
    """Raises TrainingMismatchError where a training accuracy is below what a spec expects."""
    if accuracy < expected:
        raise TrainingMismatchError(
            f"training accuracy is {accuracy:.4f}, expected at least {expected:.4f} (expected_accuracy): "
            "check the transform, the order of class_names and the weights file",
            field="expected_accuracy",
        )
