"""Train a preset by name: weights, a log and the explain.yaml from which everything else starts.

What comes out is what users write for a model of their own, so that rebuild, audit and serving know no
presets.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from proponent.attribution.losses import get_loss
from proponent.classifier import beside, import_attribute, prepared
from proponent.datasets.reading import read_all
from proponent.errors import NotFoundError, TrainingMismatchError
from proponent.index.tensor_file import save_tensors
from proponent.spec import SPEC_FILE, Factory
from proponent.training.loop import EpochMetrics, accuracy, fit, seeded
from proponent.training.presets import PRESETS, Preset

__all__ = ["PRESETS", "Preset", "TrainingResult", "get_preset", "train", "train_preset"]

WEIGHTS_FILE = "weights.safetensors"
LOG_FILE = "train_log.json"
CHECKPOINT_FILE = "checkpoint.pt"
"""While the training runs: what a killed one goes on from, when it is asked for again."""
_MARGIN = 0.02
"""How far below the measured training accuracy explain.yaml's expectation lies."""


@dataclass(frozen=True)
class TrainingResult:
    """What training a preset gave.

    Attributes:
        accuracy: Share of training examples that the final weights classify rightly.
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


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    history: list[EpochMetrics]
    accuracy: float
    held_out_accuracy: float
    seconds: float


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
    log: Callable[[EpochMetrics], None] | None = None,
) -> TrainingResult:
    """Train a preset and write ``weights.safetensors``, ``train_log.json`` and ``explain.yaml``.

    Args:
        name: A key of ``PRESETS``.
        out_dir: Directory to write to; made if missing.
        data_root: Where data files are; recorded in explain.yaml. ``None`` means the environment variable
            ``PROPONENT_DATA``, read again by whoever uses explain.yaml.
        seed: Seed of the initialisation and of the training.
        epochs: Replaces the preset's number of epochs.
        limit: Use the first so many examples only, for training and held out; recorded in explain.yaml.
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
    result = train(preset, out_dir, data_root, seed, epochs, limit, device, log)
    if epochs is None and limit is None and result.accuracy < preset.expected_accuracy:
        raise TrainingMismatchError(
            f"Preset {name} reached a training accuracy of {result.accuracy:.4f}, expected at least "
            f"{preset.expected_accuracy}; see {result.log}.",
            field="expected_accuracy",
        )
    return result


def train(
    preset: Preset,
    out_dir: str | Path,
    data_root: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
    log: Callable[[EpochMetrics], None] | None = None,
) -> TrainingResult:
    """``train_preset`` of a preset that has no name in ``PRESETS``; whatever accuracy it reaches is taken."""
    adapted = _adapted(preset, data_root, seed, epochs, limit)
    checkpoint = Path(out_dir) / CHECKPOINT_FILE
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    result = _write(Path(out_dir), adapted, _train(adapted, seed, device, log, checkpoint))
    checkpoint.unlink(missing_ok=True)
    return result


def _adapted(
    preset: Preset, data_root: str | Path | None, seed: int, epochs: int | None, limit: int | None
) -> Preset:
    """The preset with the caller's choices in its keyword arguments, where explain.yaml records them."""
    root = {} if data_root is None or not preset.needs_data else {"root": str(Path(data_root).absolute())}
    first = {} if limit is None else {"limit": limit}
    passes = {} if epochs is None else {"epochs": epochs}
    return replace(
        preset,
        dataset=preset.dataset.model_copy(update={"kwargs": {**preset.dataset.kwargs, **root, **first}}),
        held_out=preset.held_out.model_copy(update={"kwargs": {**preset.held_out.kwargs, **root, **first}}),
        training={**preset.training, **passes, "seed": seed},
    )


def _train(
    preset: Preset, seed: int, device: str, log: Callable[[EpochMetrics], None] | None, checkpoint: Path
) -> _Trained:
    out_dir, dataset = checkpoint.parent, _called(preset.dataset)
    if preset.prepare:
        import_attribute(preset.prepare)(dataset, out_dir)
    transform = _transform(preset.transform, out_dir)
    inputs, labels = read_all(dataset, transform)
    held_out = read_all(_called(preset.held_out), transform)
    with seeded(seed):
        model = prepared(_called(preset.model, out_dir))
    started = time.perf_counter()
    history = fit(
        model,
        inputs,
        labels,
        get_loss(preset.loss).per_example,
        weight_decay=preset.weight_decay,
        device=device,
        log=log,
        checkpoint=checkpoint,
        **preset.training,
    )
    seconds = time.perf_counter() - started
    return _Trained(model, history, accuracy(model, inputs, labels), accuracy(model, *held_out), seconds)


def _write(out_dir: Path, preset: Preset, trained: _Trained) -> TrainingResult:
    result = TrainingResult(
        accuracy=trained.accuracy,
        held_out_accuracy=trained.held_out_accuracy,
        seconds=trained.seconds,
        spec=out_dir / SPEC_FILE,
        weights=out_dir / WEIGHTS_FILE,
        log=out_dir / LOG_FILE,
    )
    save_tensors(trained.model.state_dict(), result.weights)
    result.log.write_text(json.dumps(_log(preset, trained), indent=2) + "\n", encoding="utf-8")
    content = yaml.safe_dump(_spec(preset, trained.accuracy), sort_keys=False, default_flow_style=None, width=110)
    result.spec.write_text(f"# {preset.title}\n{content}", encoding="utf-8")
    return result


def _log(preset: Preset, trained: _Trained) -> dict[str, Any]:
    return {
        "preset": preset.name,
        "training": dict(preset.training),
        "accuracy": trained.accuracy,
        "held_out_accuracy": trained.held_out_accuracy,
        "seconds": round(trained.seconds, 3),
        "epochs": trained.history,
    }


def _spec(preset: Preset, reached: float) -> dict[str, Any]:
    return {
        "name": preset.name,
        "model": preset.model.model_dump(),
        "weights": WEIGHTS_FILE,
        "dataset": preset.dataset.model_dump(),
        "held_out": preset.held_out.model_dump(),
        "transform": preset.transform.model_dump(),
        "loss": preset.loss,
        "weight_decay": preset.weight_decay,
        "class_names": list(preset.class_names),
        "expected_accuracy": _expectation(reached),
        "device": "auto",
        "training": {"factory": "proponent.training:fit", "kwargs": dict(preset.training)},
        "curvature": dict(preset.curvature),
    }


def _expectation(reached: float) -> float:
    """The measured accuracy less the margin, rounded down to two digits but never below zero."""
    return max(0.0, math.floor(100 * (reached - _MARGIN) + 1e-9) / 100)


def _called(factory: Factory, out_dir: Path = Path()) -> Any:
    return import_attribute(factory.factory)(**{k: beside(out_dir, v) for k, v in factory.kwargs.items()})


def _transform(factory: Factory, out_dir: Path) -> Any:
    return _called(factory, out_dir) if factory.kwargs else import_attribute(factory.factory)
