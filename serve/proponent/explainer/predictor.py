"""Predictions alone: what an explainer does before it explains, and all that a worker of predictions loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from proponent.attribution.precision import single_precision
from proponent.classifier import Classifier
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer.opening import load_bundled_classifier
from proponent.index.bundle import SPEC, WEIGHTS, Manifest, damage_of, read_manifest
from proponent.index.lock import BundleLock
from proponent.results import Prediction
from proponent.signature import InputSignature


def accepted(value: object, signature: InputSignature) -> Tensor | InvalidInputError:
    """One input as float32 of the signature's shape, or why the model cannot take it.

    Whether its values are finite is not looked at: the model's output tells.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        given = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
        return InvalidInputError(f"input is {given}, expected a tensor of floats", field="input")
    if tuple(value.shape) != signature.shape:
        return InvalidInputError(
            f"input has shape {list(value.shape)}, expected {list(signature.shape)}",
            field="input",
            reason="TENSOR_WRONG_SHAPE",
        )
    return value.detach().float()


class ForwardPass:
    """Runs a model forwards."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction | ProponentError]:
        """Predictions of inputs of the signature's shape; no gradient."""
        with torch.inference_mode(), single_precision():
            outputs = self.classifier.model(self.stack(inputs))
            return self.predictions(outputs)

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """Inputs as one batch on the model's device."""
        return torch.stack(list(inputs)).to(self.classifier.device, non_blocking=True)

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

    def rehearse(self, value: Tensor) -> None:
        """Does for one input all that calls ask for."""
        self.predict([value])

    @property
    def signature(self) -> InputSignature:
        """What one input must look like."""
        return self.manifest.signature

    def accept(self, value: Tensor) -> Tensor:
        """One input as the model takes it.

        Raises:
            InvalidInputError: It is not a tensor of floats of the signature's shape.
        """
        taken = accepted(value, self.signature)
        if isinstance(taken, InvalidInputError):
            raise taken
        return taken

    def accept_all(self, inputs: Sequence[Tensor]) -> tuple[dict[int, Tensor], dict[int, ProponentError]]:
        """The inputs that the model can take, by number, and why it cannot take the others."""
        taken = {number: accepted(value, self.signature) for number, value in enumerate(inputs)}
        refused: dict[int, ProponentError] = {n: one for n, one in taken.items() if isinstance(one, ProponentError)}
        return {n: one for n, one in taken.items() if isinstance(one, Tensor)}, refused

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction | ProponentError]:
        """Predictions of inputs of the signature's shape, or errors in their places; no gradient, no index."""
        usable, refused = self.accept_all(inputs)
        found = self._forward.predict(list(usable.values())) if usable else []
        answers = {**refused, **dict(zip(usable, found, strict=True))}
        return [answers[number] for number in range(len(inputs))]
