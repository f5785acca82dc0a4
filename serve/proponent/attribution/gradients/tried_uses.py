"""Layers as few inputs use them: forwards unlike those before are tried before their gradients are trusted.

A model may do with some inputs what it does with no others, and what was tried of a few then says nothing of these.
How often each layer was called, and how many operations took its weights, tells such forwards from the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from proponent.attribution.gradients.capture import CaptureSession, Use, eager
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.gradients.soundness import any_gradient, unsound_layers
from proponent.attribution.inputs import Inputs

PARTIAL = "it is not led through the whole batch: the first dimension of its inputs must be the batch"


@dataclass(frozen=True)
class Fault:
    """Why hooks get a layer wrong, and the place of the first example of a batch where they do."""

    place: int
    why: str


class TriedUses:
    """How forwards of a model used its layers, and which of them hooks get wrong."""

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        """Nothing is tried yet; the model is in eval mode."""
        self._model = model
        self._layers = layers
        self._sound = set[Use]()
        self._faults: dict[Use, str] = {}

    def knows(self, uses: frozenset[Use]) -> bool:
        """Whether layers were used like this before, and rightly seen."""
        return uses <= self._sound

    def faults(self, uses: frozenset[Use], inputs: Inputs) -> dict[str, Fault]:
        """The layers that hooks get wrong in a forward of some inputs [B, ...], given how it used them."""
        new = uses - self._sound
        if not new:
            return {}
        if len(inputs) == 1:
            return self._of_one(new, inputs)
        found = self._of_halves(inputs)
        # Each half may be led through a layer whole, and the two together not.
        found |= {use.layer: Fault(0, PARTIAL) for use in new if not use.fits and use.layer not in found}
        self._sound |= {use for use in new if use.layer not in found}
        return found

    def _of_halves(self, inputs: Inputs) -> dict[str, Fault]:
        middle = len(inputs) // 2
        found: dict[str, Fault] = {}
        for first, half in ((0, inputs[:middle]), (middle, inputs[middle:])):
            with CaptureSession(self._model, self._layers) as session:
                session.forward(half.clone())
                uses = session.uses()
            for layer, fault in self.faults(uses, half).items():
                found.setdefault(layer, Fault(first + fault.place, fault.why))
        return found

    def _of_one(self, new: frozenset[Use], inputs: Inputs) -> dict[str, Fault]:
        if not new <= self._faults.keys():
            with torch.no_grad(), eager():
                outputs = self._model(inputs.clone())
            if not bool(outputs.isfinite().all()):
                return {}  # others say so, and it tells nothing of the layers
            why = unsound_layers(self._model, self._layers, inputs, any_gradient(outputs), brief=True)
            self._faults |= {use: why[use.layer] for use in new if use.layer in why}
            self._sound |= new - self._faults.keys()
        return {use.layer: Fault(0, self._faults[use]) for use in new if use in self._faults}
