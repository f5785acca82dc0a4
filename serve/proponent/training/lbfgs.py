"""L-BFGS in float64 on the full batch: the optimum of a convex objective to rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from proponent.attribution.inputs import Inputs

_GRADIENT_TOLERANCE = 1e-10
"""Largest gradient entry at which to stop; rounding the weights to float32 alone moves it by about 1e-8."""
_HISTORY = 30


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes: those that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def l2_objective(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    loss_per_example: Callable[[Tensor, Tensor], Tensor],
    weight_decay: float,
) -> Tensor:
    """The training objective ``mean loss + (weight_decay / 2) ||theta||^2``, over all trained parameters."""
    squares = torch.stack([parameter.square().sum() for parameter in trained_parameters(model)]).sum()
    return loss_per_example(model(inputs), labels).mean() + 0.5 * weight_decay * squares


def gradient_norm(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    loss_per_example: Callable[[Tensor, Tensor], Tensor],
    weight_decay: float,
) -> float:
    """Euclidean norm of the objective's gradient, in the model's dtype; zero at a stationary point."""
    value = l2_objective(model, inputs, labels, loss_per_example, weight_decay)
    gradients = torch.autograd.grad(value, trained_parameters(model))
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())


def minimise(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    loss_per_example: Callable[[Tensor, Tensor], Tensor],
    weight_decay: float,
    iterations: int,
) -> int:
    """Minimise the objective in place.

    Args:
        model: A float64 model.
        inputs: ``[N, ...]`` float64.
        labels: ``[N]`` int64.
        loss_per_example: Maps outputs and labels to losses ``[N]``.
        weight_decay: Weight of the L2 term.
        iterations: Largest number of iterations.

    Returns:
        The number of evaluations of the objective.
    """
    stepper = torch.optim.LBFGS(
        trained_parameters(model),
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        stepper.zero_grad()
        value = l2_objective(model, inputs, labels, loss_per_example, weight_decay)
        torch.autograd.backward(value)
        return value

    stepper.step(closure)  # type: ignore[no-untyped-call]
    stepper.zero_grad()
    return evaluations
