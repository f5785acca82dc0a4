"""Ready-made classifiers: the models this package is demonstrated and tested on, with how to train them.

Training a preset writes a directory with weights, a log and an ``explain.yaml``, from which everything else
(rebuild, audit, serving) starts, exactly as it does for a user's own model.
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import nn

from proponent.attribution.losses import get_loss
from proponent.datasets import ImageDataset, Transform, materialise
from proponent.errors import NotFoundError, TrainingMismatchError
from proponent.preset_table import PRESETS, Call, Preset
from proponent.training import Record, accuracy, fit, seeded

__all__ = ["PRESETS", "Call", "Preset", "TrainingResult", "get_preset", "train_preset"]

_MARGIN = 0.02
_HELD_OUT_CHECKED = 2000


@dataclass(frozen=True)
class TrainingResult:
    """What training a preset gave.

    Attributes:
        accuracy: Share of training examples classified rightly by the final weights.
        held_out_accuracy: The same for the held-out examples.
        seconds: Wall time of the training alone.
        spec: Path of explain.yaml.
        weights: Path of the weights file.
        log: Path of the training log.
    """

    accuracy: float
    held_out_accuracy: float
    seconds: float
    spec: Path
    weights: Path
    log: Path


def get_preset(name: str) -> Preset:
    """Look a preset up.

    Raises:
        NotFoundError: If there is none of that name; the message lists those there are.
    """
    if name not in PRESETS:
        raise NotFoundError(f"Unknown preset {name!r}, expected one of {', '.join(PRESETS)}.", field="preset")
    return PRESETS[name]


def train_preset(
    name: str,
    out_dir: str | Path,
    data_root: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
    log: Callable[[Record], None] | None = None,
) -> TrainingResult:
    """Train a preset and write ``weights.safetensors``, ``train_log.json`` and ``explain.yaml``.

    Args:
        name: A key of ``PRESETS``.
        out_dir: Directory to write to; made if missing.
        data_root: Where data files are; recorded in explain.yaml. ``None`` means the environment variable
            ``PROPONENT_DATA``, read again by whoever uses explain.yaml.
        seed: Seed of the initialisation and of the training.
        epochs: Replaces the preset's number of epochs.
        limit: Train on the first so many examples only; recorded in explain.yaml.
        device: Where to train.
        log: Called with each record of the training log as it is made.

    Returns:
        Accuracies and paths.

    Raises:
        NotFoundError: If the preset or a data file is missing.
        TrainingMismatchError: If a full training (neither ``epochs`` nor ``limit`` given) stays below the
            preset's expected accuracy. The files are written nevertheless, for a look at the log.
    """
    preset = get_preset(name)
    dataset, held_out = _locate(preset, data_root, limit)
    training = {**preset.training, "seed": seed} | ({} if epochs is None else {"epochs": epochs})
    transform = _transform(preset.transform)
    train_set: ImageDataset = _call(dataset)
    inputs, labels = materialise(train_set, transform)
    with seeded(seed):
        model: nn.Module = _call(preset.model)
    started = time.perf_counter()
    loss_per_example = get_loss(preset.loss).per_example
    options = {"weight_decay": preset.weight_decay, "device": device, "log": log}
    history = fit(model, inputs, labels, loss_per_example, **training, **options)
    seconds = time.perf_counter() - started
    reached = accuracy(model, inputs, labels)
    held_out_reached = accuracy(model, *materialise(_call(held_out), transform))
    result = _result(Path(out_dir), reached, held_out_reached, seconds)
    _write(result, preset, model, history, _spec(preset, dataset, held_out, training, reached))
    if epochs is None and limit is None and reached < preset.expected_accuracy:
        raise TrainingMismatchError(
            f"Preset {name} reached a training accuracy of {reached:.4f}, expected at least "
            f"{preset.expected_accuracy}; see {result.log}.",
            field="expected_accuracy",
        )
    return result
