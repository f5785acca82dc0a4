"""Dense curvature in float64, for convex models and last layers.

Rows and columns follow the parameter order of `proponent.attribution.gradients.layers`, so that the flat gradients of
`capture` are vectors of the same space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from proponent.attribution.functional import LabelledBatch, current_parameters, outputs_function, summed_loss
from proponent.attribution.gradients.capture import eager
from proponent.attribution.gradients.layers import Layers, flatten_parameters, num_parameters
from proponent.attribution.inputs import Inputs
from proponent.attribution.losses import Loss
from proponent.attribution.precision import blame_exact_curvature, in_double
from proponent.errors import CurvatureError

Progress = Callable[[int], None]
"""Called with the number of examples done so far."""

_COLUMNS_AT_ONCE = 64
_RELATIVE_FLOOR = 1e-10
_STEP = 1e-8
_DIRECTIONS = 3
_TOLERANCE = 1e-2
"""Of a product with the Hessian, against a difference of gradients."""


def exact_hessian(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    *,
    num_examples: int | None = None,
    weight_decay: float = 0.0,
    max_params: int = 12_000,
    progress: Progress | None = None,
) -> Tensor:
    """``H = (1/N) sum_i d2 loss_i + wd I``, the Hessian of the training objective.

    If the outputs are those of one covered Linear, the Hessian is ``sum_i S_i (x) a_i a_i^T`` with S the
    output Hessian, computed for half of the class pairs (batches of several hundred run best). Any other model
    is differentiated twice, 64 columns at a time. All of it is computed in float64.

    Args:
        model: In eval mode.
        loss: The training loss.
        batches: Inputs, labels and ids; read once.
        layers: The layers to cover.
        num_examples: N if known; it must be the number of examples in the batches.
        weight_decay: wd.
        max_params: Largest P to accept; the matrix takes 8 P^2 bytes.
        progress: Called after each batch.

    Returns:
        ``[P, P]`` float64, symmetric, on the model's device.

    Raises:
        CurvatureError: If P is too large, the batches do not hold N examples, or the model's second derivative is
            not that of its gradient.
        SpecError: If the model does not run in float64 or fails when it is differentiated twice.
    """
    total, count = hessian_sum(model, loss, batches, layers, max_params=max_params, progress=progress)
    return finished_hessian(total, count, num_examples, weight_decay)


def hessian_sum(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    *,
    max_params: int = 12_000,
    progress: Progress | None = None,
) -> tuple[Tensor, int]:
    """``sum_i d2 loss_i`` of some batches, ``[P, P]`` float64 with its upper triangle alone, and how many examples.

    Sums of several parts of the data can be added; see `exact_hessian` and `finished_hessian`.
    """
    double = in_double(model)
    function = outputs_function(model, layers, torch.float64)
    theta = current_parameters(model, layers, torch.float64)

    def add(total: Tensor, batch: LabelledBatch) -> None:
        with blame_exact_curvature():
            outputs, features = _affine_features(double, layers, batch[0])
            if features is None:
                first = not bool(total.any())
                _add_hessian(total, summed_loss(function, loss, batch), theta)
                if first:
                    _check_products(total, summed_loss(function, loss, batch), theta, _trained(double, layers))
            else:
                _add_structured(total, loss.output_hessian(outputs, batch[1]), features)

    return _sum_over(batches, add, model, layers, max_params, progress)


def eigendecompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``[P]``, ascending, and eigenvectors ``[P, P]`` as columns, of the symmetrised matrix.

    Raises:
        CurvatureError: If the matrix is not finite.
    """
    if not bool(matrix.isfinite().all()):
        raise CurvatureError("The Hessian is not finite (NaN or infinity): check weights and inputs.")
    symmetric = matrix.double().add(matrix.T).div_(2)
    eigenvalues, eigenvectors = torch.linalg.eigh(symmetric)
    return eigenvalues, eigenvectors


def check_positive(eigenvalues: Tensor, damping: float = 0.0, weight_decay: float = 0.0) -> None:
    """Refuse curvature whose damped inverse would be meaningless.

    Args:
        eigenvalues: ``[P]``.
        damping: What is added to each.
        weight_decay: What they hold already, for the message.

    Raises:
        CurvatureError: If the smallest plus damping is not above 1e-10 times the largest.
    """
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    floor = _RELATIVE_FLOOR * max(largest, 0.0)
    if smallest + damping > floor:
        return
    if smallest < -floor:
        kind, advice = "indefinite", "Set weight_decay or damping > 0 so that all eigenvalues are positive."
    elif damping + weight_decay > 0:
        kind = "ill-conditioned"
        advice = (
            f"Scale the inputs (they make the largest), or set damping to {floor:.1g} or more: beyond a ratio of "
            f"{1 / _RELATIVE_FLOOR:.0e} rounding rules the inverse."
        )
    else:
        kind, advice = "singular", "Set weight_decay or damping > 0 so that all eigenvalues are positive."
    message = (
        f"The Hessian is {kind}: smallest eigenvalue {smallest:.6g}, largest {largest:.6g}, damping {damping:.6g}. "
    )
    raise CurvatureError(message + advice, field="damping")


def _sum_over(
    batches: Iterable[LabelledBatch],
    add: Callable[[Tensor, LabelledBatch], None],
    model: nn.Module,
    layers: Layers,
    max_params: int,
    progress: Progress | None,
) -> tuple[Tensor, int]:
    """The sum of all batches in the upper triangle of ``[P, P]``, and their number of examples."""
    size, count = num_parameters(layers), 0
    if size > max_params:
        message = f"A dense Hessian of {size:,} parameters exceeds the limit of {max_params:,}."
        raise CurvatureError(message, field="curvature")
    device = next(model.parameters()).device
    total = torch.zeros(size, size, dtype=torch.float64, device=device)
    for batch in batches:
        add(total, batch)
        count += len(batch[1])
        if progress is not None:
            progress(count)
    return total, count


def finished_hessian(total: Tensor, count: int, num_examples: int | None, weight_decay: float) -> Tensor:
    """H from the sum over ``count`` examples, which it takes the memory of; see `exact_hessian`."""
    if count == 0 or num_examples not in (None, count):
        raise CurvatureError(f"Expected {num_examples or 'at least one'} examples, the batches held {count}.")
    total.div_(count)
    total.diagonal().add_(weight_decay)
    return _mirror_upper(total)


def _mirror_upper(matrix: Tensor, block: int = 512) -> Tensor:
    """Copy the upper triangle to the lower in place, by blocks, so that no second ``[P, P]`` is needed."""
    for start in range(0, len(matrix), block):
        stop = start + block
        square = matrix[start:stop, start:stop]
        square.copy_(square.triu() + square.triu(1).T)
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    return matrix


def _add_hessian(total: Tensor, value: Callable[[Tensor], Tensor], theta: Tensor) -> None:
    """Add the Jacobian of the gradient, by reverse mode over chunks of unit vectors."""
    leaf, gradient = _gradient(value, theta)
    for start in range(0, len(theta) if gradient.requires_grad else 0, _COLUMNS_AT_ONCE):
        rows = range(start, min(start + _COLUMNS_AT_ONCE, len(theta)))
        units = theta.new_zeros(len(rows), len(theta))
        units[torch.arange(len(rows)), torch.tensor(rows)] = 1.0
        (found,) = torch.autograd.grad(
            gradient, leaf, units, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        total[start : start + len(rows)] += found


def _gradient(value: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf at theta and the gradient there, which can be differentiated by it."""
    with torch.inference_mode(False), torch.enable_grad(), eager():
        leaf = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf), leaf, create_graph=True, materialize_grads=True)
    return leaf, gradient


def _trained(model: nn.Module, layers: Layers) -> Tensor:
    """1, or 0 at the padding index of an Embedding, where autograd gives no gradient: ``[P]``."""
    found = {name: torch.ones_like(parameter, requires_grad=False) for name, parameter in model.named_parameters()}
    for layer in layers.values():
        module = model.get_submodule(layer.module)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            found[layer.weight.name][module.padding_idx] = 0
    return flatten_parameters(found, layers)


def _check_products(hessian: Tensor, value: Callable[[Tensor], Tensor], theta: Tensor, trained: Tensor) -> None:
    """Refuses functions that are differentiable once: autograd takes what they return for a constant.

    One of a few directions has to do: a step across a kink of the model changes its gradient by a jump.
    """
    generator = torch.Generator().manual_seed(0)
    steps = (torch.randn(len(theta), generator=generator, dtype=theta.dtype) * _STEP for _ in range(_DIRECTIONS))
    if not any(_is_product(hessian, value, theta, step.to(theta.device) * trained) for step in steps):
        raise CurvatureError(
            "The model's second derivative by autograd is not that of its gradient: a function that can be "
            "differentiated once only? Use curvature.kind ekfac, or name later layers in curvature.layers.",
            field="curvature.kind",
        )


def _is_product(hessian: Tensor, value: Callable[[Tensor], Tensor], theta: Tensor, step: Tensor) -> bool:
    above, below = (_gradient(value, theta + sign * step)[1].detach() for sign in (0.5, -0.5))
    expected, found = above - below, hessian @ step
    size = float(torch.maximum(found.norm(), expected.norm()))
    rounding = _RELATIVE_FLOOR * float(above.norm())
    return float((found - expected).norm()) <= _TOLERANCE * size + rounding


def _add_structured(total: Tensor, hessians: Tensor, features: Tensor) -> None:
    """Add ``sum_i S_i (x) a_i a_i^T`` to the blocks on and above the diagonal."""
    classes, width = hessians.shape[1], features.shape[1]
    blocks = total.view(classes, width, classes, width)
    for row in range(classes):
        for column in range(row, classes):
            weighted = features * hessians[:, row, column].unsqueeze(1)
            blocks[row, :, column, :].addmm_(weighted.T, features)


def _affine_features(model: nn.Module, layers: Layers, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """The outputs, and the inputs ``[B, i]`` of the one covered Linear if these are its outputs, else None."""
    shape = next(iter(layers.values()))
    module = model.get_submodule(shape.module)
    calls: list[tuple[Tensor, Tensor, int]] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], outputs: Tensor) -> None:
        # Before the user's own hooks, which may replace the outputs.
        calls.append((args[0] if args else kwargs["input"], outputs, outputs._version))

    with ExitStack() as hooks:
        if len(layers) == 1 and isinstance(module, nn.Linear):
            hooks.callback(module.register_forward_hook(record, prepend=True, with_kwargs=True).remove)
        with torch.inference_mode(False), torch.no_grad(), eager():
            outputs = model(inputs)
    if len(calls) != 1 or not _is_same(outputs, *calls[0][1:]):
        return outputs, None
    rows = calls[0][0].double()[:, : shape.inputs - shape.has_bias]
    return outputs, torch.nn.functional.pad(rows, (0, 1), value=1.0) if shape.has_bias else rows


def _is_same(outputs: Tensor, layer_outputs: Tensor, version: int) -> bool:
    """Whether the outputs are the layer's, possibly reshaped, with nothing done to them in place."""
    same_memory = outputs.data_ptr() == layer_outputs.data_ptr() and outputs.numel() == layer_outputs.numel()
    return same_memory and outputs.is_contiguous() and layer_outputs.ndim == 2 and outputs._version == version
