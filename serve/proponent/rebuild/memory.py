"""What a rebuild takes of its memory budget: matrices of the curvature first, then a block of examples.

Rows, catalog and files are streamed. A budget that the matrices alone exceed is refused before any work.
"""

from __future__ import annotations

import torch

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradient
from proponent.attribution.gradients.layers import Layers, LayerShape, num_parameters
from proponent.attribution.inputs import Inputs
from proponent.classifier import Classifier, blame_user_model
from proponent.errors import SpecError

MIB, GIB = 1 << 20, 1 << 30
DEFAULT_MEMORY = 8 * GIB
SHARE_OF_GPU = 1 / 2
FLOAT, DOUBLE = 4, 8
MOST_ON_CPU, MOST = 64, 512
"""Largest blocks; above 64, blocks were measured up to 1.4 times slower per example on a processor."""
COLUMNS = 64
"""Columns of an exact Hessian that are differentiated at once."""


def default_memory(device: torch.device) -> int:
    """Bytes of a budget that nobody chose: 8 GiB or, on a GPU, half of its memory."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return DEFAULT_MEMORY
    return int(SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory)


def check_budget(classifier: Classifier, layers: Layers, memory: int) -> None:
    """Raises SpecError where the curvature's matrices do not fit the memory."""
    needed = matrix_bytes(classifier.spec.curvature.kind, layers)
    if needed > memory:
        raise too_small(memory, needed, f"the curvature of these {num_parameters(layers):,} parameters")


def too_small(memory: int, needed: int, what: str) -> SpecError:
    """The error of a budget that something does not fit."""
    return SpecError(
        f"the memory of {_readable(memory)} (--memory) is too small: {what} takes about {_readable(needed)}",
        field="memory",
    )


def _readable(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / MIB:.3g} MiB"


def matrix_bytes(kind: str, layers: Layers) -> int:
    """Bytes of all matrices whose size follows from the layers, at the stage that holds most of them."""
    if kind == "exact":
        return 5 * DOUBLE * num_parameters(layers) ** 2  # the Hessian, its eigenvectors, and what eigh works in
    sides = [side for layer in layers.values() for side in (layer.inputs, layer.groups * layer.out)]
    # Second moments, their eigenvectors in two precisions, and what eigh of the largest works in.
    return DOUBLE * (3 * sum(side**2 for side in sides) + 3 * max(sides) ** 2)


def example_bytes(classifier: Classifier, layers: Layers, inputs: Inputs) -> int:
    """Bytes that one example takes until its gradients are projected, measured on ``inputs`` [1, ...]."""
    with blame_user_model(inputs), CaptureSession(classifier.model, layers) as session:
        outputs = session.forward(inputs)
        session.leave_out(session.problems())  # what this example alone is not led through
        gradients = session.backward(torch.zeros_like(outputs))
    # Kept for the backward: inputs, outputs, and about as much by layers that are not covered.
    activations = 3 * sum(use.inputs.numel() + use.deltas.numel() for g in gradients.values() for use in g.uses)
    if classifier.spec.curvature.kind == "exact":
        return DOUBLE * (activations * (1 if len(layers) == 1 else 2 * COLUMNS) + 6 * num_parameters(layers))
    numbers = [_numbers(layers[name], gradient) for name, gradient in gradients.items()]
    return FLOAT * (activations + max(numbers, default=1))


def _numbers(layer: LayerShape, gradient: LayerGradient) -> int:
    """Patches and rotated patches of one layer's gradient, and its matrix in a few copies."""
    return 3 * gradient.positions * layer.groups * (layer.inputs + layer.out) + 6 * layer.numel


def block_size(memory: int, example: int, examples: int, device: torch.device) -> int:
    """Examples of ``example`` bytes each that half of the memory holds, at most all of them."""
    most = MOST_ON_CPU if device.type == "cpu" else MOST
    return max(1, min(most, examples, memory // 2 // example))
