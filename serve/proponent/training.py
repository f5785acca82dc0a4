"""Deterministic training in memory of the objective ``mean loss + (weight_decay / 2) ||theta||^2``.

The regulariser covers *all* parameters, biases included: it is the objective whose curvature the
attribution inverts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from proponent.augmentation import flip_crop
from proponent.errors import InvalidInputError

LossPerExample = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs ``[B, ...]`` and labels ``[B]`` to losses ``[B]``."""

Record = dict[str, float]
"""One line of a training log."""

_EPOCHS = 20
_LBFGS_ITERATIONS = 5000
_LBFGS_GRADIENT = 1e-10  # largest entry of the float64 gradient; rounding to float32 alone moves it by ~1e-8
_LBFGS_HISTORY = 30


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators, e.g. for a model's initialisation, and restore them after."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def fit(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss_per_example: LossPerExample,
    *,
    weight_decay: float,
    optimizer: str = "sgd",
    epochs: int | None = None,
    lr: float = 0.05,
    batch_size: int = 64,
    momentum: float = 0.9,
    schedule: str = "none",
    augment: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    log: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Train a model in place and leave it in eval mode on ``device``.

    Args:
        model: The model to train, already initialised.
        inputs: ``[N, ...]`` float32.
        labels: ``[N]`` int64.
        loss_per_example: Maps outputs and labels to losses ``[B]``.
        weight_decay: Weight of the L2 term over all parameters.
        optimizer: ``"sgd"``, ``"adam"`` or ``"lbfgs"``. L-BFGS works on the full batch in float64 until the
            gradient vanishes, then casts back; it ignores ``lr``, ``batch_size``, ``momentum``,
            ``schedule`` and ``augment``.
        epochs: Passes over the data, 20 when ``None``; for L-BFGS the largest number of iterations, 5,000
            when ``None``.
        lr: Learning rate.
        batch_size: Largest number of examples per step; batches are equal to within one example.
        momentum: Momentum of SGD.
        schedule: ``"none"`` or ``"cosine"`` (from ``lr`` to zero over all steps).
        augment: ``None`` or ``"flip_crop"`` (random mirror, random crop after padding by 4 pixels).
        seed: Seed of the shuffles, the augmentation and dropout.
        device: Where to train.
        log: Called with each record as it is made.

    Returns:
        One record ``{"epoch", "loss", "accuracy"}`` per epoch: means over the epoch, the loss without the
        L2 term. L-BFGS returns one record, of the final float32 weights, with the number of objective
        evaluations as ``"epoch"`` and the norm of the objective's gradient as ``"gradient_norm"``.

    Raises:
        InvalidInputError: If an option is unknown, or inputs and labels do not fit each other.
    """
    _check_choice("optimizer", optimizer, ("sgd", "adam", "lbfgs"))
    _check_choice("schedule", schedule, ("none", "cosine"))
    _check_choice("augment", augment, (None, "flip_crop"))
    _check_sizes(inputs, labels)
    model.to(device).train()
    inputs, labels = inputs.to(device), labels.to(device)
    with seeded(seed):
        if optimizer == "lbfgs":
            iterations = _LBFGS_ITERATIONS if epochs is None else epochs
            records = _minimise(model, inputs, labels, loss_per_example, weight_decay, iterations)
        else:
            passes = _EPOCHS if epochs is None else epochs
            steps = passes * _batch_count(len(labels), batch_size)
            stepper = _stepper(model, optimizer, lr, momentum, weight_decay)
            rates = LambdaLR(stepper, lambda step: _rate(schedule, step, steps))
            generator = torch.Generator().manual_seed(seed)
            records = (
                {"epoch": epoch}
                | _epoch(
                    model,
                    _shuffled(inputs, labels, batch_size, augment, generator),
                    loss_per_example,
                    stepper,
                    rates,
                )
                for epoch in range(1, passes + 1)
            )
        history = []
        for record in records:
            history.append(record)
            if log is not None:
                log(record)
    model.eval()
    return history
