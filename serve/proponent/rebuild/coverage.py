"""Which layers a rebuild covers: those whose gradients hooks get right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import Layers, frozen_parameters, uncovered
from proponent.attribution.gradients.soundness import unsound_layers
from proponent.classifier import Classifier, blame_user_model
from proponent.errors import SpecError
from proponent.rebuild.training_set import TrainingSet

PROBED = 3
"""Examples that the hooks are tried on: few, since the memory of one is not known yet."""


class UncoveredWarning(UserWarning):
    """Some trained parameters take no part in the explanation."""


class FrozenWarning(UserWarning):
    """Some parameters were not trained and take no part in the explanation."""


def covered(classifier: Classifier, data: TrainingSet) -> tuple[Classifier, Layers]:
    """The layers to explain with, and the classifier with a spec that names them where some had to be left out.

    Raises:
        SpecError: There is no such layer, a layer that the spec names cannot be covered, or the examples of a
            batch depend on each other.
    """
    layers = classifier.find_layers()
    if not layers:
        raise _nothing_to_explain(classifier)
    inputs = data.batch(data.sample(PROBED, seed=0)).inputs
    with blame_user_model(inputs):
        sound = _sound(classifier, layers, inputs)
    _warn_of_uncovered(classifier, sound)
    return (classifier if len(sound) == len(layers) else _naming(classifier, sound)), sound


def _nothing_to_explain(classifier: Classifier) -> SpecError:
    if all(not parameter.requires_grad for parameter in classifier.model.parameters()):
        return SpecError(
            "every parameter of the model is frozen (requires_grad=False): training changed none, so there is "
            "nothing to explain: freeze only what was not trained, or set curvature.frozen to explain",
            field="curvature.frozen",
        )
    return SpecError("the model has no trained Linear or Conv2d layer to explain", field="model")


def _sound(classifier: Classifier, layers: Layers, inputs: Tensor) -> Layers:
    """The layers without those that hooks get wrong."""
    model = classifier.model
    with torch.no_grad():
        outputs = model(inputs)
    if not isinstance(outputs, Tensor) or not bool(outputs.isfinite().all()):
        return layers  # the survey refuses that, and says more about it
    unsound = unsound_layers(model, layers, inputs, _any_gradient(outputs))
    sound = {name: shape for name, shape in layers.items() if name not in unsound}
    if unsound and (classifier.spec.curvature.layers is not None or not sound):
        name, why = next(iter(unsound.items()))
        raise SpecError(f"layer {name!r} cannot be covered: {why}", field="curvature.layers")
    return sound


def _any_gradient(outputs: Tensor) -> Tensor:
    """A seeded one: that of the loss may be flat at these examples."""
    return torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)


def _naming(classifier: Classifier, layers: Layers) -> Classifier:
    curvature = classifier.spec.curvature.model_copy(update={"layers": list(layers)})
    return replace(classifier, spec=classifier.spec.model_copy(update={"curvature": curvature}))


def _warn_of_uncovered(classifier: Classifier, layers: Layers) -> None:
    explains_frozen = classifier.spec.curvature.explains_frozen
    left_out = uncovered(classifier.model, layers, frozen=explains_frozen)
    frozen = {} if explains_frozen else frozen_parameters(classifier.model)
    whole = sum(p.numel() for p in classifier.model.parameters())
    if left_out:
        share = sum(left_out.values()) / (whole - sum(frozen.values()))
        warnings.warn(
            f"{share:.1%} of the trained parameters take no part in the explanation: {_first(left_out)}",
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
    return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
