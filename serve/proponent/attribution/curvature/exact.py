"""Dense curvature in float64, for convex models and last layers.

Rows and columns follow the parameter order of `proponent.attribution.layers`, so that the flat gradients of
`capture` are vectors of the same space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

from proponent.attribution.capture import CaptureSession
from proponent.attribution.curvature.fisher import fisher_gradients
from proponent.attribution.functional import Batch, current_parameters, outputs_function, summed_loss
from proponent.attribution.layer_gradients import flat_gradients
from proponent.attribution.layers import Layers, num_parameters
from proponent.attribution.losses import Loss
from proponent.errors import CurvatureError

Progress = Callable[[int], None]
"""Called with the number of examples done so far."""

_COLUMNS_AT_ONCE = 64
_RELATIVE_FLOOR = 1e-10


def exact_hessian(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
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
    is differentiated twice by torch.func, 64 columns at a time.

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
        CurvatureError: If P is too large or the batches do not hold N examples.
    """
    outputs = outputs_function(model, layers, torch.float64)
    theta = current_parameters(model, layers, torch.float64)

    def add(total: Tensor, batch: Batch) -> None:
        features = _affine_features(model, layers, batch[0])
        if features is None:
            _add_hessian(total, grad(summed_loss(outputs, loss, batch)), theta)
        else:
            hessians = loss.output_hessian(outputs(theta, batch[0]), batch[1])
            _add_structured(total, hessians, features)

    total, count = _sum_over(batches, add, model, layers, max_params, progress)
    return _finish(total, count, num_examples, weight_decay)


def dense_ggn(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    layers: Layers,
    *,
    num_examples: int | None = None,
    weight_decay: float = 0.0,
    max_params: int = 12_000,
    progress: Progress | None = None,
) -> Tensor:
    """``(1/N) sum_i J_i^T H_out,i J_i + wd I``, the generalised Gauss-Newton matrix; see `exact_hessian`."""
    double = copy.deepcopy(model).double()

    def add(total: Tensor, batch: Batch) -> None:
        inputs, labels, ids = batch
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        with CaptureSession(double, layers) as session:
            outputs = session.forward(inputs)
            for gradients in fisher_gradients(session, loss, outputs, labels, ids, kind="ggn"):
                rows = flat_gradients(gradients)
                total.addmm_(rows.T, rows)

    total, count = _sum_over(batches, add, model, layers, max_params, progress)
    return _finish(total, count, num_examples, weight_decay)


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


def check_positive(eigenvalues: Tensor, damping: float = 0.0) -> None:
    """Refuse curvature whose damped inverse would be meaningless.

    Args:
        eigenvalues: ``[P]``.
        damping: What is added to each.

    Raises:
        CurvatureError: If the smallest plus damping is not above 1e-10 times the largest.
    """
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    if smallest + damping > _RELATIVE_FLOOR * max(largest, 0.0):
        return
    kind = "indefinite" if smallest < -_RELATIVE_FLOOR * max(largest, 0.0) else "singular"
    message = (
        f"The Hessian is {kind}: smallest eigenvalue {smallest:.6g}, largest {largest:.6g}, "
        f"damping {damping:.6g}. Set weight_decay or damping > 0 so that all eigenvalues are positive."
    )
    raise CurvatureError(message, field="damping")


def _sum_over(
    batches: Iterable[Batch],
    add: Callable[[Tensor, Batch], None],
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


def _finish(total: Tensor, count: int, num_examples: int | None, weight_decay: float) -> Tensor:
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


def _add_hessian(total: Tensor, gradient: Callable[[Tensor], Tensor], theta: Tensor) -> None:
    """Add the Jacobian of the gradient, by reverse mode over chunks of unit vectors."""
    pullback = vjp(gradient, theta)[1]
    for start in range(0, len(theta), _COLUMNS_AT_ONCE):
        rows = range(start, min(start + _COLUMNS_AT_ONCE, len(theta)))
        units = theta.new_zeros(len(rows), len(theta))
        units[torch.arange(len(rows)), torch.tensor(rows)] = 1.0
        total[start : start + len(rows)] += vmap(pullback)(units)[0]


def _add_structured(total: Tensor, hessians: Tensor, features: Tensor) -> None:
    """Add ``sum_i S_i (x) a_i a_i^T`` to the blocks on and above the diagonal."""
    classes, width = hessians.shape[1], features.shape[1]
    blocks = total.view(classes, width, classes, width)
    for row in range(classes):
        for column in range(row, classes):
            weighted = features * hessians[:, row, column].unsqueeze(1)
            blocks[row, :, column, :].addmm_(weighted.T, features)


def _affine_features(model: nn.Module, layers: Layers, inputs: Tensor) -> Tensor | None:
    """Inputs ``[B, i]`` of the one covered Linear if the model's outputs are its outputs, else None."""
    if len(layers) != 1:
        return None
    (shape,) = layers.values()
    module = model.get_submodule(shape.name)
    calls: list[tuple[Tensor, Tensor, int]] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], outputs: Tensor) -> None:
        # Before the user's own hooks, which may replace the outputs.
        calls.append((args[0] if args else kwargs["input"], outputs, outputs._version))

    handle = module.register_forward_hook(record, prepend=True, with_kwargs=True)
    try:
        with torch.inference_mode(False), torch.no_grad():
            outputs = model(inputs)
    finally:
        handle.remove()
    if not isinstance(module, nn.Linear) or len(calls) != 1 or not _is_same(outputs, *calls[0][1:]):
        return None
    rows = calls[0][0].double()[:, : shape.inputs - shape.has_bias]
    return torch.nn.functional.pad(rows, (0, 1), value=1.0) if shape.has_bias else rows


def _is_same(outputs: Tensor, layer_outputs: Tensor, version: int) -> bool:
    """Whether the outputs are the layer's, possibly reshaped, with nothing done to them in place."""
    same_memory = outputs.data_ptr() == layer_outputs.data_ptr() and outputs.numel() == layer_outputs.numel()
    return same_memory and outputs.is_contiguous() and layer_outputs.ndim == 2 and outputs._version == version
