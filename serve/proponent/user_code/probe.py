"""Is the code of a model, its transform and its loss what a bundle was built with?

Weights and files have digests; code is known by the names of factories, and can change under them: a ReLU replaced
by a sigmoid, another mean in the transform. So a bundle keeps what the classifier makes of a few inputs, and whoever
loads it compares. The inputs are made up, from hashes alone, within the range that the training inputs had: a
worker needs no training data for them, they disclose no example, and forgetting an example leaves nothing of it in
them. Noise of several grains excites the units of a network about as training inputs do (see docs/decisions.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.precision import single_precision
from proponent.classifier import Classifier
from proponent.errors import MismatchError, SpecError
from proponent.signature import InputSignature

REASON = "MODEL_CODE_CHANGED"
_CHANNELS = {"L": 1, "RGB": 3}
TOLERANCE = 1e-3
"""Of the largest output: single precision on another device, with other threads or another version of the libraries
stays a hundred times below (TF32 is switched off), and what changes less does not show in rows of half precision."""
SUSPECTS = (("tensors", "model"), ("gradients", "model"), ("losses", "loss"), ("images", "transform"))
"""What is compared, first to last, and whose code it speaks of."""
GRAINS = (1, 2, 4, 8)
"""Sizes of the squares of the made-up images and tensors."""
LARGEST = 1024
"""Longest side of a made-up image."""

Probes = dict[str, Any]
Results = list[list[float] | None]


def probe(classifier: Classifier, signature: InputSignature, inputs: Tensor) -> Probes:
    """What a bundle keeps of the code.

    Args:
        classifier: The one explained.
        signature: Of its inputs.
        inputs: Some training inputs [B, ...], for their range.

    Returns:
        ``low`` and ``high``: the range along the first axis of an input. ``layers``: the layers explained, in
        order, and their shapes. ``tensors``, ``images``: the outputs for each made-up input; ``losses`` and
        ``gradients``: the loss of each tensor's outputs, and the norm of each layer's gradient; None where none is
        finite.
    """
    rows = inputs.transpose(0, 1).flatten(1) if inputs.ndim > 1 else inputs[None]
    low, high = rows.amin(dim=1).tolist(), rows.amax(dim=1).tolist()
    layers = _described(classifier.find_layers())
    return {"low": low, "high": high, "layers": layers, **_results(classifier, signature, low, high)}


def check_code(classifier: Classifier, signature: InputSignature, probes: Probes) -> None:
    """Compares a classifier with what was kept; nothing is compared where nothing was.

    Raises:
        MismatchError: MODEL_CODE_CHANGED; the field says whether ``model``, ``transform`` or ``loss``.
    """
    if not probes:
        return
    _check_layers(classifier, probes)
    found = _results(classifier, signature, probes["low"], probes["high"])
    for kind, suspect in SUSPECTS:
        change = _change(found[kind], probes[kind]) if kind in probes else 0.0
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


def _results(classifier: Classifier, signature: InputSignature, low: list[float], high: list[float]) -> Probes:
    bounds = [torch.tensor(side).view(-1, *[1] * (len(signature.shape) - 1)) for side in (low, high)]
    noise = [_noise(signature.shape, grain) / 255 for grain in GRAINS]
    tensors = [(bounds[0] + part * (bounds[1] - bounds[0])).reshape(signature.shape) for part in noise]
    with torch.no_grad(), single_precision():
        outputs = [_outputs(classifier, value) for value in tensors]
        losses = [_loss(classifier, found, number) for number, found in enumerate(outputs)]
        images = [_outputs(classifier, _transformed(classifier, signature, image)) for image in _images(signature)]
        gradients = [_gradients(classifier, value) for value in tensors]
    found = {"tensors": outputs, "losses": losses, "images": images, "gradients": gradients}
    return {kind: _listed(results) for kind, results in found.items()}


def _outputs(classifier: Classifier, value: Tensor | None) -> Tensor | None:
    return None if value is None else _attempt(lambda: classifier.model(value[None].to(classifier.device)))


def _gradients(classifier: Classifier, value: Tensor) -> Tensor | None:
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


def _transformed(classifier: Classifier, signature: InputSignature, image: Image.Image) -> Tensor | None:
    tensor = _attempt(lambda: torch.as_tensor(classifier.transform(image), dtype=torch.float32))
    return tensor if tensor is not None and tuple(tensor.shape) == signature.shape else None


def _attempt(call: Callable[[], Tensor]) -> Tensor | None:
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


def _images(signature: InputSignature) -> Iterator[Image.Image]:
    """Of the size of the training images, and a larger one for a transform that resizes."""
    if signature.mode not in _CHANNELS or not (signature.image_size or len(signature.shape) == 3):
        return
    size = signature.image_size or (signature.shape[2], signature.shape[1])
    width, height = (min(side, LARGEST) for side in size)
    for grain, scale in (*((grain, 1.0) for grain in GRAINS), (2, 1.5)):
        shape = (_CHANNELS[signature.mode], int(scale * height), int(scale * width))
        pixels = _noise(shape, grain).permute(1, 2, 0).to(torch.uint8).numpy()
        yield Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels)


def _noise(shape: Sequence[int], grain: int) -> Tensor:
    """Whole numbers 0..255 of a shape, equal in squares of the last two of three axes or more; the same for ever."""
    sides = [
        math.ceil(side / grain) if len(shape) > 2 and axis >= len(shape) - 2 else side
        for axis, side in enumerate(shape)
    ]
    stream = hashlib.shake_256(f"{grain}|{list(shape)}".encode()).digest(math.prod(sides))
    coarse = torch.from_numpy(np.frombuffer(stream, dtype=np.uint8).copy()).float().view(sides)
    if len(shape) > 2:
        coarse = coarse.repeat_interleave(grain, dim=-1).repeat_interleave(grain, dim=-2)
        coarse = coarse[..., : shape[-2], : shape[-1]]
    return coarse
