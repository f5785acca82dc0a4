"""Deterministic training in memory of the objective ``mean loss + (weight_decay / 2) ||theta||^2``.

The regulariser covers *all* trained parameters, biases included: it is the objective whose curvature the
attribution inverts. Frozen parameters (``requires_grad=False``) stay as they are, and modules without any other
run in eval mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, cos, pi
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from proponent.attribution.inputs import Inputs, RaggedInputs
from proponent.errors import InvalidInputError
from proponent.training.augmentation import flip_crop
from proponent.training.checkpoint import Checkpoint, beginning
from proponent.training.lbfgs import gradient_norm, minimise, trained_parameters

LossPerExample = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs ``[B, ...]`` and labels ``[B]`` to losses ``[B]``."""

EpochMetrics = dict[str, float]
"""One line of a training log."""

Minibatch = tuple[Inputs, Tensor]

_EPOCHS = 20
_LBFGS_ITERATIONS = 5000


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators, e.g. for a model's initialisation, and restore them after."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def fit(
    model: nn.Module,
    inputs: Inputs,
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
    channels_last: bool = False,
    seed: int = 0,
    device: str = "cpu",
    log: Callable[[EpochMetrics], None] | None = None,
    checkpoint: Path | None = None,
) -> list[EpochMetrics]:
    """Train a model in place and leave it in eval mode on ``device``.

    Args:
        model: The float32 model to train, already initialised.
        inputs: ``[N, ...]``, a tensor or, for a model that takes them, several by name or of different lengths (see
            `Inputs`).
        labels: ``[N]`` int64.
        loss_per_example: Maps outputs and labels to losses ``[B]``.
        weight_decay: Weight of the L2 term over all parameters that are not frozen.
        optimizer: ``"sgd"``, ``"adam"`` or ``"lbfgs"``. L-BFGS works on the full batch in float64 until the
            gradient vanishes, then casts back; it ignores ``lr``, ``batch_size``, ``momentum``,
            ``schedule``, ``augment`` and ``channels_last``.
        epochs: Passes over the data, 20 when ``None``; for L-BFGS the largest number of iterations, 5,000
            when ``None``.
        lr: Learning rate.
        batch_size: Largest number of examples per step; batches are equal to within one example.
        momentum: Momentum of SGD.
        schedule: ``"none"`` or ``"cosine"`` (from ``lr`` to zero over all steps).
        augment: ``None`` or ``"flip_crop"`` (random mirror, random crop after padding by 4 pixels).
        channels_last: Whether a pixel's channels lie side by side in memory, which convolutions on a processor may
            be faster with; for images, and models that take them so. The same but for rounding.
        seed: Seed of the shuffles, the augmentation and dropout.
        device: Where to train.
        log: Called with each record as it is made.
        checkpoint: A file that is written after each epoch, from which a killed training with the same arguments
            goes on and ends as it would have. L-BFGS keeps none.

    Returns:
        One record ``{"epoch", "loss", "accuracy", "cpu_seconds"}`` per epoch: means over the epoch, the loss
        without the L2 term. L-BFGS returns one record, of the final float32 weights, that adds the number of
        ``"evaluations"`` of the objective and the norm of its gradient, ``"gradient_norm"``.

    Raises:
        InvalidInputError: If an option is unknown, inputs and labels do not fit each other, or every parameter
            is frozen.
    """
    _check_choice("optimizer", optimizer, ("sgd", "adam", "lbfgs"))
    _check_choice("schedule", schedule, ("none", "cosine"))
    _check_choice("augment", augment, (None, "flip_crop"))
    _check_sizes(inputs, labels)
    _check_images(inputs, augment, channels_last)
    if not trained_parameters(model):
        raise InvalidInputError(
            "Every parameter of the model is frozen (requires_grad=False): there is nothing to train.", field="model"
        )
    report = log or _ignore
    _prepare(model.to(device))
    data = (inputs if _padded_later(inputs, optimizer) else inputs.to(device), labels.to(device))
    with seeded(seed):
        if optimizer == "lbfgs":
            iterations = _LBFGS_ITERATIONS if epochs is None else epochs
            history = [{"epoch": 1, **_converge(model, data, loss_per_example, weight_decay, iterations)}]
            report(history[0])
        else:
            passes = _EPOCHS if epochs is None else epochs
            how = (schedule, passes, batch_size, augment, channels_last, seed)
            recipe = _Recipe(optimizer, lr, momentum, weight_decay, *how)
            history = _descend(model, data, loss_per_example, recipe, report, checkpoint)
    model.eval()
    return history


@dataclass(frozen=True)
class _Recipe:
    """What a descent does, apart from model, data and loss."""

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    passes: int
    batch_size: int
    augment: str | None
    channels_last: bool
    seed: int


def _descend(
    model: nn.Module,
    data: Minibatch,
    loss_per_example: LossPerExample,
    recipe: _Recipe,
    report: Callable[[EpochMetrics], None],
    path: Path | None,
) -> list[EpochMetrics]:
    """All epochs of a stochastic descent, or those that a checkpoint leaves."""
    steps = recipe.passes * ceil(len(data[1]) / recipe.batch_size)
    stepper = _stepper(model, recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay)
    rates = _rates(stepper, recipe.schedule, steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    start = beginning(model, data, vars(recipe)) if path else ""
    checkpoint = Checkpoint(path, start, model, stepper, rates, generator)
    history = checkpoint.load()
    for epoch in range(len(history) + 1, recipe.passes + 1):
        batches = _shuffled(data, recipe, generator)
        started = time.process_time()
        record = _pass(model, batches, loss_per_example, stepper, rates)
        history.append({"epoch": epoch, **record, "cpu_seconds": round(time.process_time() - started, 3)})
        checkpoint.save(history)
        report(history[-1])
    return history


def _padded_later(inputs: Inputs, optimizer: str) -> bool:
    """Examples of different lengths stay where they are: a GPU pads them one tiny kernel after the other."""
    return isinstance(inputs, RaggedInputs) and optimizer != "lbfgs"


def _prepare(model: nn.Module) -> None:
    """Training mode; frozen modules stay in eval mode, or running statistics would change under them."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def predicted_labels(outputs: Tensor) -> Tensor:
    """Predicted labels ``[B]`` int64: the largest of several outputs, or the sign of a single one."""
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return (outputs.flatten() > 0).long()
    return outputs.argmax(dim=1)


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Inputs, labels: Tensor, batch_size: int = 256) -> float:
    """Share of examples whose predicted label is right; the model runs in the mode it is in."""
    device = next(model.parameters()).device
    places = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    hits = [(predicted_labels(model(inputs[p].to(device))) == labels[p].to(device)).sum() for p in places]
    return int(torch.stack(hits).sum()) / len(labels)


def _converge(
    model: nn.Module, data: Minibatch, loss_per_example: LossPerExample, weight_decay: float, iterations: int
) -> EpochMetrics:
    inputs, labels = data
    model.double()
    doubles = inputs.double()
    evaluations = minimise(model, doubles, labels, loss_per_example, weight_decay, iterations)
    model.float().double()
    norm = gradient_norm(model, doubles, labels, loss_per_example, weight_decay)
    model.float().eval()
    with torch.no_grad():
        loss = float(loss_per_example(model(inputs), labels).mean())
    return {
        "evaluations": evaluations,
        "loss": loss,
        "accuracy": accuracy(model, inputs, labels),
        "gradient_norm": norm,
    }


def _stepper(
    model: nn.Module, optimizer: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Both optimisers add ``weight_decay * theta`` to the gradient: the L2 term, not decoupled decay."""
    if optimizer == "adam":
        return torch.optim.Adam(trained_parameters(model), lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(
        trained_parameters(model), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )


def _rates(stepper: torch.optim.Optimizer, schedule: str, steps: int) -> LambdaLR:
    """Steps the learning rate once a batch."""
    return LambdaLR(stepper, lambda step: 1.0 if schedule == "none" else 0.5 * (1 + cos(pi * step / steps)))


def _shuffled(data: Minibatch, recipe: _Recipe, generator: torch.Generator) -> Iterator[Minibatch]:
    """Equal batches rather than a small last one, whose batch statistics would be noise."""
    inputs, labels = data
    order = torch.randperm(len(labels), generator=generator)
    for chosen in order.tensor_split(ceil(len(labels) / recipe.batch_size)):
        some = inputs[chosen.to(inputs.device)]
        if isinstance(some, RaggedInputs):
            some = some.together().to(labels.device)
        yield _changed(some, recipe, generator), labels[chosen.to(labels.device)]


def _changed(some: Inputs, recipe: _Recipe, generator: torch.Generator) -> Inputs:
    """A batch of images augmented and laid out as the recipe says."""
    if isinstance(some, Tensor) and recipe.augment:
        some = flip_crop(some, generator)
    if isinstance(some, Tensor) and recipe.channels_last:
        some = some.contiguous(memory_format=torch.channels_last)
    return some


def _pass(
    model: nn.Module,
    batches: Iterable[Minibatch],
    loss_per_example: LossPerExample,
    stepper: torch.optim.Optimizer,
    rates: LambdaLR,
) -> EpochMetrics:
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    for inputs, labels in batches:
        stepper.zero_grad()
        outputs = model(inputs)
        losses = loss_per_example(outputs, labels)
        torch.autograd.backward(losses.mean())
        stepper.step()
        rates.step()
        right = (predicted_labels(outputs.detach()) == labels).sum()
        total += torch.stack([losses.detach().sum(), right]).to(total)
        count += len(labels)
    loss, share = (total / count).tolist()
    return {"loss": loss, "accuracy": share}


def _ignore(record: EpochMetrics) -> None:
    """The default log: keep nothing but what ``fit`` returns."""


def _check_choice(field: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise InvalidInputError(f"Unknown {field} {value!r}, expected one of {choices}.", field=field)


def _check_sizes(inputs: Inputs, labels: Tensor) -> None:
    if len(inputs) != len(labels) or len(labels) == 0:
        raise InvalidInputError(
            f"Got {len(inputs)} inputs and {len(labels)} labels, expected as many of each and at least one.",
            field="inputs",
        )


def _check_images(inputs: Inputs, augment: str | None, channels_last: bool) -> None:
    if augment and not isinstance(inputs, Tensor):
        raise InvalidInputError("Augmentation 'flip_crop' is of images, the inputs are others.", field="augment")
    if channels_last and not (isinstance(inputs, Tensor) and inputs.ndim == 4):
        message = "Option channels_last is of images [N, C, H, W], the inputs are others."
        raise InvalidInputError(message, field="channels_last")
