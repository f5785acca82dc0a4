"""Predictions alone: what an explainer does before it explains, and all that a worker of predictions loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from proponent.attribution.inputs import Example, NamedInputs, grouped, stacked
from proponent.classifier import Classifier
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer.given import accepted
from proponent.explainer.opening import load_bundled_classifier
from proponent.index.bundle import SPEC, WEIGHTS, Manifest, damage_of, read_manifest
from proponent.index.lock import BundleLock
from proponent.results import Prediction
from proponent.signature import InputSignature
from proponent.single_precision import single_precision
from proponent.text import Text

T = TypeVar("T")
OUT_OF_RANGE, UNEXPLAINED = "INPUT_OUT_OF_RANGE", "INPUT_NOT_EXPLAINED"
MOVED_ALONE = 1 << 16
"""Bytes of an input from which on a GPU stacks inputs faster than its host."""
Given = Tensor | NamedInputs | Text | Mapping[str, Any]
"""An input as the library takes it: a tensor, tensors by name, a text, or a record."""


class ForwardPass:
    """Runs a model forwards."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, inputs: Sequence[Example]) -> list[Prediction | ProponentError]:
        """Predictions of inputs that fit the signature; no gradient.

        Not in inference mode: what a model computes once and keeps, such as the positions of its longest input, could
        not be used where a gradient is taken.
        """
        with torch.no_grad(), single_precision():
            return in_order(
                grouped(inputs), lambda places: apart(places, lambda some: self._predict([inputs[n] for n in some]))
            )

    def _predict(self, inputs: Sequence[Example]) -> list[Prediction | ProponentError]:
        """Of inputs of one shape."""
        with blame_inputs(inputs[0]):
            outputs = self.classifier.model(self.stack(inputs))
        return self.predictions(outputs)

    def stack(self, inputs: Sequence[Example]) -> Tensor | NamedInputs:
        """Inputs of one shape as a batch on the model's device."""
        device, first = self.classifier.device, inputs[0]
        if isinstance(first, Tensor) and first.nbytes >= MOVED_ALONE:
            inputs = [each.to(device, non_blocking=True) for each in inputs]
        return stacked(inputs).to(device, non_blocking=True)

    def predictions(self, outputs: Tensor) -> list[Prediction | ProponentError]:
        """What the model's outputs [B, ...] say."""
        loss = self.classifier.loss
        return self.told(loss.probabilities(outputs.double()).cpu(), loss.predict(outputs).tolist())

    def told(self, probabilities: Tensor, classes: Sequence[int]) -> list[Prediction | ProponentError]:
        """The same by what was read from the device: probabilities [B, C] and the predicted classes."""
        finite, names = torch.isfinite(probabilities).all(dim=1).tolist(), self.classifier.class_names
        return [
            Prediction(c, names[c], p)
            if good
            else InvalidInputError("the model's output is not finite for this input", field="input")
            for good, c, p in zip(finite, classes, probabilities.tolist(), strict=True)
        ]


@contextmanager
def blame_inputs(example: Example) -> Iterator[None]:
    """Says of ids outside of a vocabulary, and of lengths without positions in the model, that the input is at fault.

    One tensor of numbers cannot be: its shape is what the model was built for.
    """
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:
        is_the_machines = isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)
        without_memory = "allocate memory" in str(error)
        if is_the_machines or without_memory or (isinstance(example, Tensor) and example.is_floating_point()):
            raise
        raise InvalidInputError(
            f"the model fails on this input (an id outside of a vocabulary, or too long?): {error}",
            field="input",
            reason=OUT_OF_RANGE,
        ) from error


def apart(numbers: Sequence[int], compute: Callable[[Sequence[int]], Sequence[T]]) -> list[T | ProponentError]:
    """What is computed of all together or, where one of the inputs is at fault, of each by itself."""
    try:
        return [*compute(numbers)]
    except InvalidInputError as error:
        if error.reason not in (OUT_OF_RANGE, UNEXPLAINED):
            raise
        if len(numbers) == 1:
            return [error]
        return [one for number in numbers for one in apart([number], compute)]


def in_order(groups: Sequence[Sequence[int]], compute: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
    """What is computed of each group of places, in the order of the places."""
    found = {place: one for group in groups for place, one in zip(group, compute(group), strict=True)}
    return [found[place] for place in range(len(found))]


class Predictor:
    """A bundle's classifier, asked in batches; no factors, no index, no catalog."""

    def __init__(self, classifier: Classifier, manifest: Manifest, hold: BundleLock | None = None) -> None:
        self.classifier = classifier
        self.manifest = manifest
        self._hold = hold
        self._forward = ForwardPass(classifier)

    @classmethod
    def load(cls, bundle: Path, *, weights: Path | None = None, device: torch.device | None = None) -> Self:
        """Opens what predictions need of a bundle, after checking it; ``weights`` are those deployed.

        Raises:
            CorruptBundleError: A file is missing or damaged.
            MismatchError: The weights or the model's code are not those that the bundle was built for.
        """
        manifest = read_manifest(bundle)
        hold = BundleLock(bundle)
        for name in (SPEC, WEIGHTS):
            problem = damage_of(bundle, name, manifest.files[name])
            if problem is not None:
                raise problem
        return cls(load_bundled_classifier(bundle, manifest, weights, device), manifest, hold)

    def check(self) -> None:
        """Looks at what changes outside of this process and answers need: predictions need nothing."""

    def rehearse(self, value: Example) -> None:
        """Does for one input all that calls ask for."""
        self.predict([value])

    @property
    def signature(self) -> InputSignature:
        """What one input must look like."""
        return self.manifest.signature

    def accept(self, value: Given) -> Example:
        """One input as the model takes it.

        Raises:
            InvalidInputError: It does not fit the signature; the message names what does not.
        """
        taken = accepted(value, self.signature, self.classifier.transform)
        if isinstance(taken, InvalidInputError):
            raise taken
        return taken

    def accept_all(self, inputs: Sequence[Given]) -> tuple[dict[int, Example], dict[int, ProponentError]]:
        """The inputs that the model can take, by number, and why it cannot take the others."""
        signature, transform = self.signature, self.classifier.transform
        taken = {number: accepted(value, signature, transform) for number, value in enumerate(inputs)}
        refused: dict[int, ProponentError] = {n: one for n, one in taken.items() if isinstance(one, ProponentError)}
        return {n: one for n, one in taken.items() if not isinstance(one, ProponentError)}, refused

    def predict(self, inputs: Sequence[Given]) -> list[Prediction | ProponentError]:
        """Predictions of inputs (see `Explainer.explain`), or errors in their places; no gradient, no index."""
        usable, refused = self.accept_all(inputs)
        found = self._forward.predict(list(usable.values())) if usable else []
        answers = {**refused, **dict(zip(usable, found, strict=True))}
        return [answers[number] for number in range(len(inputs))]
