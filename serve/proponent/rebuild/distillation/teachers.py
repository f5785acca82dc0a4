"""More models of a spec's recipe, each trained with a seed of its own and kept as a file.

They depend on the recipe and the training set alone, and so serve later rebuilds of any weights that it gave.

Some of them may see a half of the training set each: an example that a model has fitted says little of what it would
do to one that has not seen it. Halves come in pairs, so that each example is in one of the two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from proponent.classifier import Classifier, load_classifier
from proponent.errors import SpecError
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import Train, in_processes, save_finished, trained_model, training_digest
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, parse_spec

TEACHERS = "teachers"
"""Their directory below a model's own in the store."""
FIRST_SEED = 3_000_000
"""Of the trainings: audits and tunings have others."""
IN_TURN = 3
"""Where teachers are mixed: two of complementary halves, then one of everything; no half without its other one."""


@dataclass(frozen=True)
class TeacherModel:
    """A model that scores are distilled from.

    Attributes:
        number: Of the teacher, from 0.
        positions: Training examples that it has seen; None: all of them.
        file: Its weights.
    """

    number: int
    positions: list[int] | None
    file: Path

    @property
    def seed(self) -> int:
        """Of its training."""
        return FIRST_SEED + self.number


@dataclass(frozen=True)
class Teaching:
    """Where teachers are kept and how they are trained.

    Attributes:
        directory: Of all recipes' teachers.
        forgotten: Ids of training examples that take no part.
        jobs: Processes that train, on this machine.
        train: Runs the trainings elsewhere.
    """

    directory: Path
    forgotten: Collection[str] = ()
    jobs: int = 1
    train: Train | None = None


def trained_teachers(
    spec: ModelSpec, data: TrainingSet, teaching: Teaching, progress: StageProgress
) -> list[TeacherModel]:
    """As many models as the spec asks for; those that were trained before are not trained again.

    Raises:
        SpecError: The spec lacks ``training``, or a training diverged.
    """
    if spec.training is None:
        raise SpecError("key 'training' is missing: teachers are trained by it", field="training")
    directory = teaching.directory / training_digest(spec, data)
    directory.mkdir(parents=True, exist_ok=True)
    count = spec.curvature.teachers
    models = [_model(spec, len(data), directory, number) for number in range(count)]
    content = spec.model_dump(mode="json")
    tasks = [
        (content, each.seed, each.positions, list(teaching.forgotten), each.file)
        for each in models
        if not each.file.exists()
    ]
    finished = (teaching.train or in_processes)(_train_to_file, tasks, teaching.jobs) if tasks else ()
    for _ in progress.track("train teachers", finished, count, count - len(tasks)):
        pass
    return models


def _model(spec: ModelSpec, size: int, directory: Path, number: int) -> TeacherModel:
    pair, member = divmod(number, IN_TURN)
    first = number - member
    is_half = spec.curvature.teachers_on == "mixed" and member < 2 and first + 1 < spec.curvature.teachers
    if not is_half:
        return TeacherModel(number, None, directory / f"model-{number:05d}.safetensors")
    return TeacherModel(number, half(size, pair)[member], directory / f"half-{number:05d}.safetensors")


def half(size: int, pair: int) -> tuple[list[int], list[int]]:
    """Positions of a random half of a training set, ascending, and of the other one."""
    shuffled = torch.randperm(size, generator=torch.Generator().manual_seed(FIRST_SEED + pair))
    first, second = (part.sort().values.tolist() for part in (shuffled[: size // 2], shuffled[size // 2 :]))
    return first, second


def _train_to_file(
    content: dict[str, object], seed: int, positions: list[int] | None, forgotten: list[str], file: Path
) -> None:
    model = trained_model(parse_spec(dict(content), origin="teacher"), positions, seed, forgotten=forgotten)
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise SpecError(
            f"key 'training': the training of seed {seed} diverged (weights not finite)", field="training"
        )
    save_finished(model.state_dict(), file)


def teacher_classifier(classifier: Classifier, weights: Path) -> Classifier:
    """A teacher as a classifier of the same spec on the same device; its accuracy is looked at elsewhere."""
    spec = classifier.spec.model_copy(update={"expected_accuracy": 0.0})
    return load_classifier(spec, weights=weights, device=classifier.device)
