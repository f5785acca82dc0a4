"""Is the code of a model, its transform and its loss what a bundle was built with?

Weights and files have digests; code is known by the names of factories, and can change under them: a ReLU replaced
by a sigmoid, another mean in the transform. So a bundle keeps what the classifier makes of a few inputs, and whoever
loads it compares. The inputs are made up, from hashes alone, within the range that the training inputs had: a
worker needs no training data for them, they disclose no example, and forgetting an example leaves nothing of it in
them. Noise of several grains excites the units of a network about as training inputs do (see docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.inputs import Example, Inputs
from proponent.classifier import Classifier
from proponent.errors import MismatchError, SpecError
from proponent.raw_inputs import model_input
from proponent.signature import InputSignature
from proponent.single_precision import single_precision
from proponent.user_code.made_up import made_up_inputs, made_up_raws, ranges_of

REASON = "MODEL_CODE_CHANGED"
TOLERANCE = 1e-3
"""Of the largest output: single precision on another device, with other threads or another version of the libraries
stays a hundred times below (TF32 is switched off), and what changes less does not show in rows of half precision."""
SUSPECTS = (
    ("tensors", "model"),
    ("gradients", "model"),
    ("losses", "loss"),
    ("images", "transform"),
    ("texts", "transform"),
    ("records", "transform"),
)
"""What is compared, first to last, and whose code it speaks of."""
Probes = dict[str, Any]
Results = list[list[float] | None]
T = TypeVar("T")


def probe(classifier: Classifier, signature: InputSignature, inputs: Inputs) -> Probes:
    """What a bundle keeps of the code.

    Args:
        classifier: The one explained.
        signature: Of its inputs.
        inputs: Some training inputs [B, ...], for their range.

    Returns:
        ``ranges``: see `made_up.ranges_of`. ``layers``: the layers explained, in order, and their shapes.
        ``tensors``: the outputs for each made-up input, and ``images``, ``texts`` or ``records`` for each that goes
        through the transform; ``losses`` and ``gradients``: the loss of each tensor's outputs, and the norm of each
        layer's gradient; None where none is finite.
    """
    ranges = ranges_of(inputs)
    layers = _described(classifier.find_layers())
    return {**ranges, "layers": layers, **_results(classifier, signature, ranges)}


def check_code(classifier: Classifier, signature: InputSignature, probes: Probes) -> None:
    """Compares a classifier with what was kept; nothing is compared where nothing was.

    Raises:
        MismatchError: MODEL_CODE_CHANGED; the field says whether ``model``, ``transform`` or ``loss``.
    """
    if not probes:
        return
    _check_layers(classifier, probes)
    found = _results(classifier, signature, probes)
    for kind, suspect in SUSPECTS:
        change = _change(found.get(kind, []), probes[kind]) if kind in probes else 0.0
        if not change <= TOLERANCE:
            raise MismatchError(
                f"the code of the {suspect} is not what the bundle was built with: for the same made-up inputs and "
                f"weights its results differ by {change:.2g} of the largest (up to {TOLERANCE:g} may be rounding): "
                "restore the code, or run proponent rebuild",
                field=suspect,
                reason=REASON,
            )


def _check_layers(classifier: Classifier, probes: Probes) -> None:
    """Rows and factors know a parameter by its place alone: layers in another order would be taken for each other."""
    try:
        found = _described(classifier.find_layers())
    except SpecError:  # one that the spec names is gone, or frozen now
        found = []
    if "layers" in probes and found != probes["layers"]:
        names = [", ".join(str(layer[0]) for layer in layers) or "others" for layers in (probes["layers"], found)]
        raise MismatchError(
            "the code of the model is not what the bundle was built with: the trained layers that it explains, their "
            f"order or their shapes are others (then {names[0]}; now {names[1]}): restore the code, or run proponent "
            "rebuild",
            field="model",
            reason=REASON,
        )


def _described(layers: Layers) -> list[list[Any]]:
    """What decides which parameter a place in a flat gradient stands for, as JSON keeps it."""
    return [[s.name, s.groups, s.out, s.inputs, s.has_weight, s.has_bias] for s in layers.values()]


def _change(found: Results, kept: Results) -> float:
    """Largest difference in units of the largest result kept; infinite where only one has a result."""
    if [len(result or ()) for result in found] != [len(result or ()) for result in kept]:
        return math.inf
    pairs = [(a, b) for old, new in zip(kept, found, strict=True) for a, b in zip(old or (), new or (), strict=True)]
    size = max((abs(a) for a, _ in pairs), default=0.0)
    return max((abs(a - b) for a, b in pairs), default=0.0) / (size or 1.0)


def _results(classifier: Classifier, signature: InputSignature, ranges: Mapping[str, Any]) -> Probes:
    tensors = made_up_inputs(signature, ranges)
    kind, raws = made_up_raws(signature)
    with torch.no_grad(), single_precision():
        outputs = [_outputs(classifier, value) for value in tensors]
        losses = [_loss(classifier, found, number) for number, found in enumerate(outputs)]
        transformed = [_outputs(classifier, _transformed(classifier, signature, raw)) for raw in raws]
        gradients = [_gradients(classifier, value) for value in tensors]
    found = {"tensors": outputs, "losses": losses, kind: transformed, "gradients": gradients}
    return {kind: _listed(results) for kind, results in found.items()}


def _outputs(classifier: Classifier, value: Example | None) -> Tensor | None:
    return None if value is None else _attempt(lambda: classifier.model(value[None].to(classifier.device)))


def _gradients(classifier: Classifier, value: Example) -> Tensor | None:
    """Norm of each layer's gradient, at a seeded output gradient: outputs alone do not tell how hooks see them."""

    def norms() -> Tensor:
        with CaptureSession(classifier.model, classifier.find_layers()) as session:
            outputs = session.forward(value[None].to(classifier.device))
            seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
            gradients = session.backward(seed)
        return torch.cat([gradient.sum_and_squares()[1] for gradient in gradients.values()]).sqrt()

    return _attempt(norms)


def _loss(classifier: Classifier, outputs: Tensor | None, number: int) -> Tensor | None:
    if outputs is None:
        return None
    label = torch.tensor([number % classifier.loss.num_classes(outputs)], device=outputs.device)
    return _attempt(lambda: classifier.loss.per_example(outputs, label))


def _transformed(classifier: Classifier, signature: InputSignature, raw: Any) -> Example | None:
    found = _attempt(lambda: model_input(classifier.transform, raw))
    fits = not isinstance(found, Tensor) or signature.is_ragged or tuple(found.shape) == signature.shape
    return found if fits else None


def _attempt(call: Callable[[], T]) -> T | None:
    """What the user's code gives, or None: made-up inputs may mean nothing to it."""
    try:
        return call()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # the user's code may raise anything
        return None


def _listed(found: Sequence[Tensor | None]) -> Results:
    """Results as JSON holds them, with more digits than single precision has."""
    return [
        [float(f"{number:.9g}") for number in result.double().flatten().tolist()]
        if isinstance(result, Tensor) and bool(result.isfinite().all())
        else None
        for result in found
    ]
