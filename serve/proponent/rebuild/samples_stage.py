"""The held-out inputs that a bundle keeps: chosen and checked first, explained last, by the code that serves them.

A few are explained together, as calls that come at once are: no more than a block of the training set, so that memory
holds them. What is explained is saved now and then; a killed rebuild goes on from there.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from proponent.attribution.inputs import Example, NamedInputs, as_inputs, content
from proponent.classifier import Classifier
from proponent.errors import ProponentError, SpecError
from proponent.explainer import Explainer
from proponent.index import bundle as files
from proponent.index.bundle import Manifest
from proponent.index.catalog import Catalog, CatalogEntry
from proponent.index.faults import fault_point
from proponent.index.samples import DEPTH, Sample, SampleLists, StoredInfluence, write_samples
from proponent.options import ExplainOptions, Measure, Side
from proponent.raw_inputs import kind_of, scalars
from proponent.rebuild.contents import content_of
from proponent.rebuild.context import Compute, InProcess, RebuildContext, Task
from proponent.rebuild.readings import Readings
from proponent.rebuild.stage_files import is_url
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation, Influence
from proponent.signature import InputKind
from proponent.tensor_messages import named_message, tensor_message

KEY = "held_out"
SEED = 5
CHUNK = 16
"""Samples that are explained between two saves, and together where a block of the rebuild is not smaller."""
LARGEST_FILE = 10 << 20
"""What a gateway takes by default."""
_ENDS = [(measure, side) for measure in Measure for side in Side]


@dataclass(frozen=True)
class HeldOutSamples:
    """Some examples of the held-out set.

    Attributes:
        positions: In the set, ascending.
        hashes: SHA-256 of the content of each.
    """

    data: TrainingSet
    positions: Sequence[int]
    hashes: Sequence[str]

    @classmethod
    def choose(cls, classifier: Classifier) -> HeldOutSamples | None:
        """A seeded sample of as many as the spec wants, all of them read once; None where there is no held-out set.

        Raises:
            SpecError: One of them cannot be read, transformed or explained as labelled; the message names it.
        """
        spec = classifier.spec
        if spec.held_out is None or not spec.samples:
            return None
        with _blamed():
            data = TrainingSet.open(classifier, spec.held_out, KEY)
        positions = data.sample(spec.samples, SEED)
        names = [data.example_id(position) for position in positions]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SpecError(f"key '{KEY}': two examples have the id {twice!r}", field=KEY)
        return cls(data, positions, [_content_hash(_read(data, position)[0]) for position in positions])

    def chunks(self) -> dict[str, Sequence[int]]:
        """Places in ``positions`` that are explained together, by the name under which that is saved.

        The name tells which inputs they are: the held-out set is no part of what else a rebuild depends on.
        """
        names = "|".join(self.data.example_id(position) for position in self.positions)
        key = hashlib.sha256("|".join([names, *self.hashes]).encode()).hexdigest()[:8]
        starts = range(0, len(self.positions), CHUNK)
        return {
            f"samples-{key}-{number:05d}": range(start, min(start + CHUNK, len(self.positions)))
            for number, start in enumerate(starts)
        }


def keep_samples(context: RebuildContext, samples: HeldOutSamples | None, directory: Path, manifest: Manifest) -> int:
    """Explains samples by the files of a bundle and adds them to it; returns how many.

    Raises:
        SpecError: One of them cannot be explained; the message names it.
    """
    if samples is None:
        return 0
    chunks = samples.chunks()
    # Where stages lie elsewhere than the store, workers may not see a bundle that is not finished.
    here = replace(context, executor=InProcess()) if is_url(context.workspace.location) else context
    here.map("explain samples", SamplesTask.of(samples, directory, manifest), chunks)
    with closing(Catalog.open(directory / files.CATALOG)) as catalog:
        write_samples(directory / files.SAMPLES, _entries(context, catalog, samples, chunks))
    fault_point(f"bundle.written:{files.SAMPLES}")
    return len(samples.positions)


@dataclass(frozen=True)
class SamplesTask(Task):
    """Lists of samples, by their places.

    Attributes:
        bundle: Directory of the files that explain.
        positions: Of all samples, in the held-out set.
        readings: What the examples of that set were when they were read first.
        data: That set, as it was opened; other processes open their own, which must have the same order.
    """

    bundle: Path
    manifest: Manifest
    positions: tuple[int, ...]
    readings: Readings
    data: TrainingSet | None

    @classmethod
    def of(cls, samples: HeldOutSamples, bundle: Path, manifest: Manifest) -> SamplesTask:
        """Of all samples."""
        return cls(bundle.absolute(), manifest, tuple(samples.positions), samples.data.readings, samples.data)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"data": None}

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        data = self._data(context)
        explainer = Explainer.of_files(self.bundle, self.manifest, context.classifier)
        together = context.batching.block
        return lambda places: _explained(explainer, data, [self.positions[place] for place in places], together)

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"sample {self._data(context).example_id(self.positions[item])!r}"

    def _data(self, context: RebuildContext) -> TrainingSet:
        if self.data is not None:
            return self.data
        factory = context.classifier.spec.held_out
        assert factory is not None
        return TrainingSet.open(context.classifier, factory, KEY, readings=self.readings)


@contextmanager
def _blamed(sample: str = "") -> Iterator[None]:
    """Errors name the spec's key, and the sample at fault where one is known."""
    try:
        yield
    except ProponentError as error:
        message = error.message.removeprefix(f"key '{KEY}': ")
        named = f"sample {sample!r}: " if sample else ""
        raise SpecError(f"key '{KEY}': {named}{message}", field=KEY) from error


def _read(data: TrainingSet, position: int) -> tuple[Any, Example, int]:
    with _blamed(data.example_id(position)):
        return data.item(position)


def _explained(explainer: Explainer, data: TrainingSet, positions: Sequence[int], together: int) -> dict[str, Tensor]:
    """Rows and scores of the lists, [n, 6, DEPTH], with row -1 behind a list's end, and predictions [n]."""
    starts = range(0, len(positions), together)
    answers = [
        answer for start in starts for answer in _explain(explainer, data, positions[start : start + together])
    ]
    ids = {one.example_id for answer in answers for hits in _lists(answer) for one in hits}
    rows = explainer.catalog.rows_of(sorted(ids))
    shape = len(answers), len(_ENDS), DEPTH
    found = torch.full(shape, -1, dtype=torch.int64)
    scores = torch.zeros(shape, dtype=torch.float64)
    for n, answer in enumerate(answers):
        for e, hits in enumerate(_lists(answer)):
            found[n, e, : len(hits)] = torch.tensor([rows[one.example_id] for one in hits], dtype=torch.int64)
            scores[n, e, : len(hits)] = torch.tensor([one.score for one in hits], dtype=torch.float64)
    return {"rows": found, "scores": scores, "predictions": torch.tensor([a.prediction.class_id for a in answers])}


def _explain(explainer: Explainer, data: TrainingSet, positions: Sequence[int]) -> list[Explanation]:
    inputs = [_read(data, position)[1] for position in positions]
    with _blamed():
        answers = explainer.explain(inputs, [ExplainOptions(top_k=DEPTH)] * len(inputs))
    return [_usable(answer, data.example_id(p)) for answer, p in zip(answers, positions, strict=True)]


def _usable(answer: Explanation | ProponentError, sample: str) -> Explanation:
    if isinstance(answer, ProponentError):
        with _blamed(sample):
            raise answer
    return answer


def _lists(answer: Explanation) -> Iterator[Sequence[Influence]]:
    """The lists in the order of ``_ENDS``."""
    return (getattr(result, side.value) for result in answer.results for side in Side)


def _entries(
    context: RebuildContext, catalog: Catalog, samples: HeldOutSamples, chunks: dict[str, Sequence[int]]
) -> Iterator[tuple[Sample, SampleLists]]:
    for name, places in chunks.items():
        stored = context.workspace.load(name)
        entries = catalog.by_rows([row for row in stored["rows"].flatten().tolist() if row >= 0])
        for n, place in enumerate(places):
            lists = _stored_lists(entries, stored["rows"][n].tolist(), stored["scores"][n].tolist())
            yield _sample(context, samples, place, int(stored["predictions"][n])), lists


def _stored_lists(
    entries: Mapping[int, CatalogEntry], rows: list[list[int]], scores: list[list[float]]
) -> SampleLists:
    lists: dict[Measure, dict[Side, Sequence[StoredInfluence]]] = {measure: {} for measure in Measure}
    for (measure, side), listed, scored in zip(_ENDS, rows, scores, strict=True):
        lists[measure][side] = [
            StoredInfluence(entries[row].example_id, score)
            for row, score in zip(listed, scored, strict=True)
            if row >= 0
        ]
    return lists


def _sample(context: RebuildContext, samples: HeldOutSamples, place: int, predicted: int) -> Sample:
    position = samples.positions[place]
    raw, value, label = _read(samples.data, position)
    bare = Sample(
        position=place,
        sample_id=samples.data.example_id(position),
        class_id=label,
        predicted_class_id=predicted,
        sha256=samples.hashes[place],
        thumbnail=content_of(raw).thumbnail,
    )
    return replace(bare, **_whole(raw, value, context))


def _whole(raw: Any, value: Example, context: RebuildContext) -> dict[str, Any]:
    """The input as callers may send it: raw where that gives the model the same, else as the model takes it."""
    kind = kind_of(raw)
    if kind is InputKind.TEXT:
        return {"form": "text", "input": raw.encode()}
    if kind is InputKind.RECORD:
        return {"form": "record", "input": json.dumps(scalars(raw)).encode()}
    if isinstance(value, NamedInputs):
        named = named_message({name: tensor.cpu().numpy() for name, tensor in value.tensors.items()})
        return {"form": "tensors", "input": named.SerializeToString(deterministic=True)}
    png = _png(raw, value, context)
    if png:
        return {"input": png}
    message = tensor_message(value.cpu().numpy())
    return {"form": "tensor", "shape": tuple(message.shape), "dtype": message.dtype, "input": message.data}


def _png(raw: Any, tensor: Tensor, context: RebuildContext) -> bytes:
    """A PNG file that callers may send and that gives the model the same input; empty where there is none.

    There is none of tensors, of modes that PNG lacks or the service does not take, and of too large images.
    """
    if isinstance(raw, Tensor):
        return b""
    image = (raw if isinstance(raw, Image.Image) else Image.fromarray(raw)).copy()
    image.info.clear()  # what a camera notes is not the model's input
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
        read = Image.open(buffer)
        again = torch.as_tensor(context.classifier.transform(read)).to(torch.float32)
    except Exception:  # the user's transform may raise anything of an image that is not quite the same
        return b""
    fits = read.mode == context.data.signature.mode and len(buffer.getvalue()) <= LARGEST_FILE
    return buffer.getvalue() if fits and torch.equal(again, tensor.cpu()) else b""


def _content_hash(raw: Any) -> str:
    """SHA-256 of pixels or numbers with their kind and shape: the same whatever library wrote a file of them."""
    if isinstance(raw, Image.Image):
        kind, data = f"{raw.mode} {raw.size}", raw.tobytes()
    elif kind_of(raw) is InputKind.TEXT:
        kind, data = "text", raw.encode()
    elif kind_of(raw) is InputKind.RECORD:
        kind, data = "record", json.dumps(scalars(raw), sort_keys=True).encode()
    elif kind_of(raw) is InputKind.TENSORS:
        kind, data = "tensors", content(as_inputs(raw))
    else:
        array = np.ascontiguousarray(raw.detach().cpu().numpy() if isinstance(raw, Tensor) else raw)
        kind, data = f"{array.dtype.str} {array.shape}", array.tobytes()
    return hashlib.sha256(f"{kind}|".encode() + data).hexdigest()
