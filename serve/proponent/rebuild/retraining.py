"""Models trained again by a spec's own recipe, in parallel processes, each kept as a file.

A spec takes part when it names ``training``: a callable ``(model, inputs, labels, loss_per_example, *, weight_decay,
seed, device, **kwargs)`` that trains in place.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.context import BaseContext
from pathlib import Path

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.layers import frozen_state
from proponent.classifier import (
    Classifier,
    beside,
    build_model,
    classifier_of,
    load_loss,
    pick_device,
    resolve,
    untrained_model,
    weights_digest,
)
from proponent.errors import SpecError
from proponent.index.tensor_file import save_tensors
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.spec import ModelSpec
from proponent.training.loop import seeded
from proponent.user_code.source import code_sha256

NO_RECIPE = frozenset(
    {"curvature", "weights", "expected_accuracy", "device", "name", "held_out", "samples", "unlabelled", "root"}
)
"""Keys of a spec that a training does not depend on."""


Train = Callable[[Callable[..., None], Sequence[tuple[object, ...]], int], Iterator[None]]
"""Runs a task for each tuple of arguments in so many processes of one thread; yields as they end."""


def trained_model(
    spec: ModelSpec, positions: Sequence[int] | None, seed: int, *, forgotten: Collection[str] = ()
) -> nn.Module:
    """A model of the spec trained from scratch on some (or all) training examples, in eval mode.

    What its factory freezes keeps the values of the spec's weights.

    Args:
        spec: The recipe.
        positions: In the training set without the forgotten examples; None takes all of it.
        seed: Of the initialisation and of the training.
        forgotten: Ids of examples that take no part.
    """
    examples = read_examples(classifier_of(spec, build_model(spec)), "dataset", positions, forgotten=forgotten)
    return trained_on(spec, examples, seed)


def trained_on(spec: ModelSpec, examples: Batch, seed: int) -> nn.Module:
    """``trained_model`` on examples that have been read."""
    if spec.training is None:
        raise SpecError("key 'training' is missing: retraining needs it", field="training")
    with seeded(seed):
        model = untrained_model(spec)
    train = resolve(spec, spec.training.factory, "training.factory")
    settings = {**spec.training.kwargs, "seed": seed, "device": str(pick_device(spec.device))}
    inputs, labels = examples.inputs.cpu(), examples.labels.cpu()
    train(model, inputs, labels, load_loss(spec).per_example, weight_decay=spec.weight_decay, **settings)
    return model.eval()


def read_examples(
    classifier: Classifier, key: str, positions: Sequence[int] | None, *, forgotten: Collection[str] = ()
) -> Batch:
    """Some (or all) examples of a set that the spec names, read once: a rebuild or an audit has read them before."""
    data = TrainingSet.open(classifier, getattr(classifier.spec, key), key, forgotten=forgotten, probe=False)
    return data.batch(range(len(data)) if positions is None else positions)


def in_processes(task: Callable[..., None], arguments: Sequence[tuple[object, ...]], jobs: int) -> Iterator[None]:
    """Runs a task for each tuple of arguments in ``jobs`` processes of one thread each; yields as they end."""
    environment = dict(os.environ)
    with ProcessPoolExecutor(jobs, _own_processes(), initializer=_begin, initargs=(environment,)) as pool:
        futures = [pool.submit(task, *some) for some in arguments]
        for future in as_completed(futures):
            yield future.result()


def _own_processes() -> BaseContext:
    """How processes begin that share nothing: on Linux as forks of a server that has imported what all of them need.

    A new interpreter would take seconds, for each process of each check of an audit, until it could train. The
    server itself has trained nothing and knows no GPU: nothing is inherited that must not be.
    """
    if sys.platform != "linux":  # elsewhere the system's own libraries may not be forked
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which every optimiser of torch imports
    return context


def _begin(environment: Mapping[str, str]) -> None:
    """The environment is the caller's of now, not of when the server was started."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)


def save_finished(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a result under another name first: a file of that name is whole."""
    temporary = path.with_suffix(".part")
    save_tensors(tensors, temporary)
    temporary.rename(path)


def training_digest(spec: ModelSpec, data: TrainingSet) -> str:
    """What trained models depend on, and nothing else: of the weights the frozen ones alone, no seed and no place."""
    recipe = spec.model_dump(mode="json", exclude=set(NO_RECIPE))
    if recipe["training"]:
        recipe["training"]["kwargs"].pop("seed", None)  # each training has its own
    parts: list[object] = [recipe, code_sha256(spec), data.fingerprint(), _files_beside(spec)]
    model = untrained_model(spec)
    if frozen := frozen_state(model):
        parts.append(weights_digest({name: model.state_dict()[name] for name in frozen}))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _files_beside(spec: ModelSpec) -> list[str]:
    """SHA-256 of the files in the spec's folder that its factories are given, such as a tokenizer's."""
    factories = (spec.model, spec.dataset, spec.transform, spec.training)
    values = [value for factory in factories if factory for value in factory.kwargs.values()]
    named = [Path(found) for value in values if (found := beside(spec.root, value)) is not value]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
