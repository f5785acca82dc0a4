"""Ground truth by retraining: the held-out losses of models trained on parts of the training set.

Every retrained model is one file, so that a killed audit goes on where it stopped, and models are trained in
parallel processes of one thread each. A spec takes part when it names ``training``: a callable
``(model, inputs, labels, loss_per_example, *, weight_decay, seed, device, **kwargs)`` that trains in place.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from proponent.classifier import (
    Classifier,
    build_model,
    classifier_of,
    load_loss,
    pick_device,
    resolve,
    untrained_model,
)
from proponent.errors import SpecError
from proponent.index.tensor_file import save_tensors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.spec import ModelSpec, parse_spec
from proponent.training.loop import seeded


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


def retrained_losses(job: Retraining, masks: Tensor, progress: StageProgress, jobs: int = 1) -> Tensor:
    """Held-out losses [count, Q] float64 of models trained on each mask [count, N] with each seed; resumes.

    Raises:
        SpecError: The spec lacks ``training`` or ``held_out``, or a training diverged.
    """
    for key in ("training", "held_out"):
        if getattr(job.spec, key) is None:
            raise SpecError(f"key '{key}' is missing: retraining needs it", field=key)
    job.directory.mkdir(parents=True, exist_ok=True)
    files = [job.directory / f"model-{number:05d}.safetensors" for number in range(len(masks))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    finished = _in_parallel(job, [(number, masks[number]) for number in missing], jobs)
    for _ in progress.track("retrain", finished, len(masks), len(masks) - len(missing)):
        pass
    losses = torch.stack([load_file(file)["losses"] for file in files])
    _check_finite(losses, job, files)
    return losses


def _check_finite(losses: Tensor, job: Retraining, files: Sequence[Path]) -> None:
    """A rank takes NaN for the largest loss: a figure of diverged trainings would look like any other."""
    diverged = (~losses.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if diverged:
        raise SpecError(
            f"key 'training': the losses of {len(diverged)} of {len(losses)} retrained models are not finite, first "
            f"that of seed {job.seeds[diverged[0]]} ({files[diverged[0]]}): does the training diverge?",
            field="training",
        )


def _in_parallel(job: Retraining, work: Sequence[tuple[int, Tensor]], jobs: int) -> Iterator[None]:
    content = job.spec.model_dump(mode="json")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_retrain_to_file, content, job, number, mask) for number, mask in work]
        for future in as_completed(futures):
            yield future.result()


def _retrain_to_file(content: dict[str, object], job: Retraining, number: int, mask: Tensor) -> None:
    spec = parse_spec(dict(content), origin="audit")
    losses = retrain(spec, mask.nonzero().flatten().tolist(), job.seeds[number], job.queries)
    path = job.directory / f"model-{number:05d}.safetensors"
    temporary = path.with_suffix(".part")
    save_tensors({"losses": losses}, temporary)
    temporary.rename(path)


def retrain(spec: ModelSpec, positions: Sequence[int], seed: int, queries: Sequence[int]) -> Tensor:
    """Trains from scratch on some training examples; held-out losses [Q] float64 at the true labels."""
    model = trained_model(spec, positions, seed)
    wanted = _read(classifier_of(spec, model), "held_out", queries)
    with torch.no_grad():
        outputs = model(wanted.inputs).double()
        return load_loss(spec).per_example(outputs, wanted.labels).cpu()


def trained_model(spec: ModelSpec, positions: Sequence[int] | None, seed: int) -> nn.Module:
    """A model of the spec trained from scratch on some (or all) training examples, in eval mode.

    What its factory freezes keeps the values of the spec's weights.
    """
    if spec.training is None:
        raise SpecError("key 'training' is missing: retraining needs it", field="training")
    with seeded(seed):
        model = untrained_model(spec)
    examples = _read(classifier_of(spec, build_model(spec)), "dataset", positions)
    train = resolve(spec, spec.training.factory, "training.factory")
    settings = {**spec.training.kwargs, "seed": seed, "device": str(pick_device(spec.device))}
    inputs, labels = examples.inputs.cpu(), examples.labels.cpu()
    train(model, inputs, labels, load_loss(spec).per_example, weight_decay=spec.weight_decay, **settings)
    return model.eval()


def _read(classifier: Classifier, key: str, positions: Sequence[int] | None) -> Batch:
    """Some (or all) examples as a rebuild reads them."""
    data = TrainingSet.open(classifier, getattr(classifier.spec, key), key)
    return data.batch(range(len(data)) if positions is None else positions)
