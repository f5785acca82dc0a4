"""Which layers a rebuild covers: those whose gradients hooks get right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import Layers, frozen_parameters, uncovered
from proponent.attribution.gradients.left_out import left_out_modules
from proponent.attribution.gradients.soundness import any_gradient, unsound_layers, unused_layers
from proponent.attribution.inputs import Inputs
from proponent.classifier import Classifier, blame_user_model
from proponent.errors import SpecError
from proponent.rebuild.training_set import TrainingSet

PROBED, ROUNDS = 3, 4
"""Examples that the hooks are tried on at once, few, since the memory of one is not known yet; and how often. Models
may do another thing with other inputs: experts see some of them, and long texts are cut."""
NAMED = 5
"""Most names in a warning; the manifest has all."""


class UncoveredWarning(UserWarning):
    """Some trained parameters take no part in the explanation."""


class FrozenWarning(UserWarning):
    """Some parameters were not trained and take no part in the explanation."""


@dataclass(frozen=True)
class Coverage:
    """What a rebuild explains.

    Attributes:
        given: With the spec as it was given.
        unsound: Layers that hooks get wrong, and why.
    """

    given: Classifier
    unsound: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def layers(self) -> Layers:
        """The layers to explain with."""
        found = self.given.find_layers()
        units = {found[name].unit for name in self.unsound}
        return {name: shape for name, shape in found.items() if shape.unit not in units}

    @property
    def classifier(self) -> Classifier:
        """With a spec that names the layers where some had to be left out."""
        return _naming(self.given, self.layers) if self.unsound else self.given

    @property
    def left_out(self) -> dict[str, str]:
        """Modules with trained parameters outside of the layers, and why; not those that the spec leaves out."""
        curvature = self.given.spec.curvature
        return left_out_modules(
            self.given.model,
            self.layers,
            self.unsound,
            include=curvature.layers,
            frozen=curvature.explains_frozen,
            families=curvature.cover,
        )

    def without(self, unsound: Mapping[str, str]) -> Coverage:
        """The same without more layers, with a warning.

        Raises:
            SpecError: The spec names one of them, or there are no others.
        """
        if not unsound:
            return self
        if self.given.spec.curvature.layers is not None or len(unsound) == len(self.layers):
            raise _not_covered(unsound)
        found = replace(self, unsound={**self.unsound, **unsound})
        _warn_of_uncovered(self.given, found.layers, found.left_out)
        return found


def covered(classifier: Classifier, data: TrainingSet) -> Coverage:
    """The layers whose gradients hooks get right.

    Raises:
        SpecError: There is no such layer, a layer that the spec names cannot be covered, or the examples of a
            batch depend on each other.
    """
    layers = classifier.find_layers()
    if not layers:
        raise _nothing_to_explain(classifier)
    found = Coverage(classifier, _unsound(classifier, layers, data))
    _warn_of_uncovered(classifier, found.layers, found.left_out)
    return found


def _not_covered(unsound: Mapping[str, str]) -> SpecError:
    name, why = next(iter(unsound.items()))
    return SpecError(f"layer {name!r} cannot be covered: {why}", field="curvature.layers")


def _nothing_to_explain(classifier: Classifier) -> SpecError:
    if all(not parameter.requires_grad for parameter in classifier.model.parameters()):
        return SpecError(
            "every parameter of the model is frozen (requires_grad=False): training changed none, so there is "
            "nothing to explain: freeze only what was not trained, or set curvature.frozen to explain",
            field="curvature.frozen",
        )
    families = ", ".join(classifier.spec.curvature.cover)
    return SpecError(f"the model has no trained layer to explain: none of {families}", field="model")


def _unsound(classifier: Classifier, layers: Layers, data: TrainingSet) -> Mapping[str, str]:
    """The layers that hooks get wrong, and why."""
    found, unused, is_named = dict[str, str](), set(layers), classifier.spec.curvature.layers is not None
    for number in range(ROUNDS):
        left = {name: shape for name, shape in layers.items() if name not in found}
        inputs = data.batch(data.alike(PROBED, seed=number)).inputs
        with blame_user_model(inputs):
            found |= _unsound_at(classifier, left, inputs, brief=number > 0)
            sound = {name: shape for name, shape in left.items() if name not in found}
            unused &= unused_layers(classifier.model, sound, inputs)
        if found and (is_named or len(found) == len(layers)):
            raise _not_covered(found)
    if is_named or len(unused) + len(found) == len(layers):
        return found
    # Of some inputs only, such as an expert's: it would not see the whole batch.
    return found | dict.fromkeys(unused, "no example that it was tried on is led through it")


def _unsound_at(classifier: Classifier, layers: Layers, inputs: Inputs, *, brief: bool) -> Mapping[str, str]:
    model = classifier.model
    with torch.no_grad():
        outputs = model(inputs.clone())
    if isinstance(outputs, Tensor):
        classifier.loss.check_outputs(outputs)
    if not isinstance(outputs, Tensor) or not bool(outputs.isfinite().all()):
        return {}  # the survey refuses that, and says more about it
    return unsound_layers(model, layers, inputs, any_gradient(outputs), brief=brief)


def _naming(classifier: Classifier, layers: Layers) -> Classifier:
    names = list(dict.fromkeys(layer.unit for layer in layers.values()))
    curvature = classifier.spec.curvature.model_copy(update={"layers": names})
    return replace(classifier, spec=classifier.spec.model_copy(update={"curvature": curvature}))


def _warn_of_uncovered(classifier: Classifier, layers: Layers, modules: Mapping[str, str]) -> None:
    explains_frozen = classifier.spec.curvature.explains_frozen
    left_out = uncovered(classifier.model, layers, frozen=explains_frozen)
    frozen = {} if explains_frozen else frozen_parameters(classifier.model)
    whole = sum(p.numel() for p in classifier.model.parameters())
    if left_out:
        share = sum(left_out.values()) / (whole - sum(frozen.values()))
        warnings.warn(
            f"{share:.1%} of the trained parameters take no part in the explanation: {_first(left_out)}"
            + "".join(f"; {name}: {why}" for name, why in list(modules.items())[:NAMED])
            + ("; ..." if len(modules) > NAMED else ""),
            UncoveredWarning,
            stacklevel=2,
        )
    if frozen:
        warnings.warn(
            f"{sum(frozen.values()) / whole:.1%} of the parameters are frozen (requires_grad=False) and take no part "
            f"in the explanation: {_first(frozen)}",
            FrozenWarning,
            stacklevel=2,
        )


def _first(names: Mapping[str, int]) -> str:
    return ", ".join(list(names)[:NAMED]) + (", ..." if len(names) > NAMED else "")
