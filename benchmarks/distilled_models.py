"""What the comparison of distilled scores starts from: truths, and what models say of the same inputs.

Served models of several seeds are opened together: their teachers are the same, and each is asked once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from truth import Truth, open_truth
from typing_extensions import override

from proponent.attribution.inputs import Example, Inputs
from proponent.classifier import Classifier
from proponent.datasets import adult, cifar10, mnist, sst2
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.distillation.pseudo_queries import InputsOnly, PseudoQueries
from proponent.rebuild.distillation.query_stage import ask as ask_model
from proponent.rebuild.distillation.teacher_rows import norms_of, remove_workspace, teacher_rows
from proponent.rebuild.distillation.teachers import Teaching, trained_teachers
from proponent.rebuild.ekfac import rebuild_ekfac
from proponent.rebuild.joint_sample import DEFAULT_SIZE
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import concatenated
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace

DAMPINGS = {"mnist-cnn": (1000.0, 1.0), "cifar10-cnn": (100.0, 1 / 3), "adult": (1.0, 10.0), "sst2": (1.0, 10.0)}
"""Both dampings that the model's own scores were best with."""
OTHERS, COPY = 4000, 0.2
"""Images of the JPEG copy that are looked at, and how near to one trained on (root mean square of thumbnails, of
which copies have less than 0.1 and others more than 0.3) none may be."""
SCORED, MIXED, GIVEN = "scored", "mixed", "given"
QUESTIONS = "questions"
"""Names the stages of what a model is asked about."""


@dataclass(frozen=True)
class Set:
    """A preset at a seed.

    Attributes:
        of: The model, with the dampings that it is asked at.
        trainings: R, of each of the truth's halves.
        jobs: Processes that train.
    """

    truth: Truth
    of: Classifier
    trainings: int
    jobs: int

    @cached_property
    def runs(self) -> Tensor:
        """Losses of the models retrained on the truth's halves, [R, S, Q]; retrained when they are asked for."""
        return self.truth.runs(self.trainings, self.jobs)


@dataclass(frozen=True)
class Model:
    """What a model says, see ``teacher_rows``, and which of its answers are those to the inputs, [n]."""

    said: dict[str, Tensor]
    pairs: Tensor

    def to(self, device: torch.device) -> Model:
        """The same on a device."""
        return Model({name: value.to(device) for name, value in self.said.items()}, self.pairs.to(device))


def opened(preset: str, seed: int, options: argparse.Namespace) -> Set:
    truth = open_truth(preset, seed, options.work)
    damping, second = DAMPINGS[preset]
    size = options.operator_size
    update = {"damping": damping, "second_damping": second * size / DEFAULT_SIZE, "embedding_size": size}
    settings = truth.of.spec.curvature.model_copy(update=update)
    spec = truth.of.spec.model_copy(update={"curvature": settings, "expected_accuracy": 0.0})
    return Set(truth, replace(truth.of, spec=spec), options.trainings, options.jobs)


@dataclass(frozen=True)
class Asked:
    """What models were asked about, for all served models of a preset together.

    Their pseudo-queries are the same inputs, at labels that mostly agree, so that a pair of both is asked about once.

    Attributes:
        inputs: Of the scored queries and of the pseudo-queries, n.
        origins: As those of ``PseudoQueries``, [n].
        places: Of each pair's input, [m].
        labels: Of each pair, [m].
        pairs: Which each served model has asked about, [S, n].
        sizes: How many inputs there are of each kind.
    """

    inputs: list[Example]
    origins: Tensor
    places: Tensor
    labels: Tensor
    pairs: Tensor
    sizes: dict[str, int]


class Questions(PseudoQueries):
    """Inputs that are there already, as models are asked about pseudo-queries."""

    def __init__(self, inputs: Sequence[Example], data: TrainingSet) -> None:
        self._inputs, self._data = inputs, data
        self.unlabelled, self.seed = None, 0

    def __len__(self) -> int:
        return len(self._inputs)

    @override
    def inputs(self, numbers: Sequence[int]) -> Inputs:
        return self._data.together([self._inputs[number] for number in numbers])


def asked_about(sets: Sequence[Set], preset: str, options: argparse.Namespace) -> Asked:
    truth = sets[0].truth
    others = _unlabelled(truth, preset)
    mixed = PseudoQueries(truth.data, None, options.pseudo_queries, seed=4)
    given = PseudoQueries(truth.data, others, min(options.given, len(others)), seed=4)
    sizes = {SCORED: len(truth.queries), MIXED: len(mixed), GIVEN: len(given)}
    scored = truth.held_out.batch(truth.queries)
    asked = [example for part in (mixed, given) for example in part.inputs(range(len(part)))]
    origins = torch.cat([torch.full((len(truth.queries),), -1), mixed.origins, given.origins])
    labels = torch.stack([torch.cat([scored.labels.cpu(), _predicted(each, asked)]) for each in sets])
    inputs = [*scored.inputs.cpu(), *asked]
    pairs = torch.stack([torch.arange(len(inputs)).expand_as(labels), labels], dim=-1)
    unique, inverse = pairs.flatten(0, 1).unique(dim=0, return_inverse=True)
    return Asked(inputs, origins, unique[:, 0], unique[:, 1], inverse.view(labels.shape), sizes)


def _predicted(some: Set, inputs: Sequence[Example]) -> Tensor:
    queries, numbers = Questions(inputs, some.truth.data), range(len(inputs))
    blocks = (queries.inputs(numbers[start : start + 1024]) for start in numbers[::1024])
    with torch.no_grad():
        return torch.cat([some.of.model(block.to(some.of.device)).argmax(dim=1).cpu() for block in blocks])


def _context(some: Set, directory: Path, key: str) -> RebuildContext:
    workspace = Workspace(directory, key)
    layers, quiet = some.of.find_layers(), StageProgress(quiet=True)
    return RebuildContext(some.of, layers, some.truth.data, Batching.of(128), workspace, quiet)


def ask(sets: Sequence[Set], asked: Asked, preset: str, options: argparse.Namespace) -> Iterator[list[Model]]:
    """Of each served model (first) and its teachers, what they say of all inputs; every answer is kept."""
    some, key = sets[0], f"{asked.sizes} {len(asked.places)} {options.operator_size}"
    context = _context(some, options.work / f"{preset}-asked", key)
    teaching = Teaching(options.work / "teachers", jobs=options.jobs)
    wanted = {"teachers": options.teachers, "teachers_on": options.teachers_on}
    settings = some.of.spec.curvature.model_copy(update=wanted)
    spec = some.of.spec.model_copy(update={"curvature": settings})
    teachers = trained_teachers(spec, some.truth.data, teaching, context.progress)
    for each in teachers:
        if not context.workspace.has(each.file.stem):
            queries = Questions([asked.inputs[place] for place in asked.places.tolist()], some.truth.data)
            context.workspace.save(each.file.stem, teacher_rows(context, each, queries, QUESTIONS, asked.labels))
            remove_workspace(context, each.number)
            print(f"  asked {each.file.stem}", flush=True)
    for served, pairs in zip(sets, asked.pairs, strict=True):
        own = _served(served, asked, pairs, served.truth.directory / "served", key)
        models = [own, *(Model(context.workspace.load(each.file.stem), pairs) for each in teachers)]
        yield [model.to(served.of.device) for model in models]


def _served(some: Set, asked: Asked, pairs: Tensor, directory: Path, key: str) -> Model:
    context = _context(some, directory, key)
    if not context.workspace.has("answers"):
        _, _, shards = rebuild_ekfac(context)
        said = ask_model(context, Questions(asked.inputs, some.truth.data), QUESTIONS, asked.labels[pairs])
        rows = norms_of(concatenated([context.workspace.load(name) for name in shards]))
        context.workspace.save("answers", {"queries": said["phi"], "scales": said["scales"], **rows})
    return Model(context.workspace.load("answers"), torch.arange(len(pairs)))


def _unlabelled(truth: Truth, preset: str) -> TrainingSet:
    """Inputs of the same source that are neither trained on nor scored."""
    if preset == "cifar10-cnn":
        return _others_of_the_copy(truth)
    whole: Any = {"mnist-cnn": mnist.train, "adult": adult.train, "sst2": sst2.test}[preset]()
    first = 0 if preset == "sst2" else len(truth.data)  # the others are trained on the first of the same file
    return TrainingSet(InputsOnly(Subset(whole, range(first, len(whole)))), truth.of, "unlabelled")


def _others_of_the_copy(truth: Truth) -> TrainingSet:
    """The lossy copy's training images: the scored ones are of the other split, those trained on are among them."""
    source: Any = cifar10.jpeg()
    others = TrainingSet(InputsOnly(source), truth.of, "unlabelled")
    positions = others.sample(OTHERS, seed=5)
    known = _thumbnails(truth.data, range(len(truth.data)))
    distances = torch.cdist(_thumbnails(others, positions), known).amin(dim=1) / known.shape[1] ** 0.5
    kept = [place for place, distance in zip(positions, distances.tolist(), strict=True) if distance > COPY]
    return TrainingSet(InputsOnly(Subset(source, kept)), truth.of, "unlabelled")


def _thumbnails(data: TrainingSet, positions: Sequence[int]) -> Tensor:
    """Each image averaged over squares of 2 x 2, flat."""
    images = data.batch(positions).inputs
    assert isinstance(images, Tensor)
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)
