"""Ground truth by retraining: the held-out losses of models trained on parts of the training set.

Every retrained model is one file, so that a killed audit goes on where it stopped, and models are trained in
parallel processes of one thread each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from proponent.classifier import classifier_of, load_loss
from proponent.errors import SpecError
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import Train, in_processes, read_examples, save_finished, trained_model
from proponent.spec import ModelSpec, parse_spec


@dataclass(frozen=True)
class Retraining:
    """What to retrain on and what to measure.

    Attributes:
        spec: A spec with ``training`` and ``held_out``.
        seeds: Of each model's initialisation and training.
        queries: Positions in the held-out set whose losses are recorded.
        directory: Where finished models' losses are kept.
    """

    spec: ModelSpec
    seeds: tuple[int, ...]
    queries: tuple[int, ...]
    directory: Path


def half_subsets(size: int, count: int, seed: int) -> Tensor:
    """Random halves of the training set, [count, size] bool."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, dtype=torch.bool)
    for mask in masks:
        mask[torch.randperm(size, generator=generator)[: size // 2]] = True
    return masks


def retrained_losses(
    job: Retraining, masks: Tensor, progress: StageProgress, jobs: int = 1, train: Train | None = None
) -> Tensor:
    """Held-out losses [count, Q] float64 of models trained on each mask [count, N] with each seed; resumes.

    Raises:
        SpecError: The spec lacks ``training`` or ``held_out``, or a training diverged.
    """
    files = retrain_missing(job, masks, progress, jobs, train)
    losses = torch.stack([load_file(file)["losses"] for file in files])
    _check_finite(losses, job, files)
    return losses


def retrain_missing(
    job: Retraining, masks: Tensor, progress: StageProgress, jobs: int = 1, train: Train | None = None
) -> list[Path]:
    """Trains the models that the job's directory lacks, see `retrained_losses`; each model's file."""
    for key in ("training", "held_out"):
        if getattr(job.spec, key) is None:
            raise SpecError(f"key '{key}' is missing: retraining needs it", field=key)
    job.directory.mkdir(parents=True, exist_ok=True)
    files = [job.directory / f"model-{number:05d}.safetensors" for number in range(len(masks))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    content = job.spec.model_dump(mode="json")
    tasks = [(content, job, number, masks[number]) for number in missing]
    finished = (train or in_processes)(_retrain_to_file, tasks, jobs) if tasks else ()
    for _ in progress.track("retrain", finished, len(masks), len(masks) - len(missing)):
        pass
    return files


def _check_finite(losses: Tensor, job: Retraining, files: Sequence[Path]) -> None:
    """A rank takes NaN for the largest loss: a figure of diverged trainings would look like any other."""
    diverged = (~losses.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if diverged:
        raise SpecError(
            f"key 'training': the losses of {len(diverged)} of {len(losses)} retrained models are not finite, first "
            f"that of seed {job.seeds[diverged[0]]} ({files[diverged[0]]}): does the training diverge?",
            field="training",
        )


def _retrain_to_file(content: dict[str, object], job: Retraining, number: int, mask: Tensor) -> None:
    spec = parse_spec(dict(content), origin="audit")
    losses = retrain(spec, mask.nonzero().flatten().tolist(), job.seeds[number], job.queries)
    save_finished({"losses": losses}, job.directory / f"model-{number:05d}.safetensors")


def retrain(spec: ModelSpec, positions: Sequence[int], seed: int, queries: Sequence[int]) -> Tensor:
    """Trains from scratch on some training examples; held-out losses [Q] float64 at the true labels."""
    model = trained_model(spec, positions, seed)
    wanted = read_examples(classifier_of(spec, model), "held_out", queries)
    with torch.no_grad():
        outputs = model(wanted.inputs).double()
        return load_loss(spec).per_example(outputs, wanted.labels).cpu()
