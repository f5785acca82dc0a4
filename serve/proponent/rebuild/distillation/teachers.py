"""More models of a spec's recipe, each trained with a seed of its own and kept as a file.

They depend on the recipe and the training set alone, and so serve later rebuilds of any weights that it gave.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from proponent.classifier import Classifier, load_classifier
from proponent.errors import SpecError
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import in_processes, save_finished, trained_model, training_digest
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, parse_spec

TEACHERS = "teachers"
"""Their directory below a model's own in the store."""
FIRST_SEED = 3_000_000
"""Of the trainings: audits and tunings have others."""


@dataclass(frozen=True)
class Teaching:
    """Where teachers are kept and how they are trained.

    Attributes:
        directory: Of all recipes' teachers.
        forgotten: Ids of training examples that take no part.
        jobs: Processes that train.
    """

    directory: Path
    forgotten: Collection[str] = ()
    jobs: int = 1


def trained_teachers(
    spec: ModelSpec, data: TrainingSet, count: int, teaching: Teaching, progress: StageProgress
) -> list[Path]:
    """Weights of ``count`` models; those that were trained before are not trained again.

    Raises:
        SpecError: The spec lacks ``training``, or a training diverged.
    """
    if spec.training is None:
        raise SpecError("key 'training' is missing: teachers are trained by it", field="training")
    directory = teaching.directory / training_digest(spec, data)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"model-{number:05d}.safetensors" for number in range(count)]
    content = spec.model_dump(mode="json")
    tasks = [
        (content, FIRST_SEED + number, list(teaching.forgotten), file)
        for number, file in enumerate(files)
        if not file.exists()
    ]
    finished = in_processes(_train_to_file, tasks, teaching.jobs) if tasks else ()
    for _ in progress.track("train teachers", finished, count, count - len(tasks)):
        pass
    return files


def _train_to_file(content: dict[str, object], seed: int, forgotten: list[str], file: Path) -> None:
    model = trained_model(parse_spec(dict(content), origin="teacher"), None, seed, forgotten=forgotten)
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise SpecError(
            f"key 'training': the training of seed {seed} diverged (weights not finite)", field="training"
        )
    save_finished(model.state_dict(), file)


def teacher_classifier(classifier: Classifier, weights: Path) -> Classifier:
    """A teacher as a classifier of the same spec on the same device."""
    return load_classifier(classifier.spec, weights=weights, device=classifier.device)
