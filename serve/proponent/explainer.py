"""The online path: a batch of inputs in, predictions and explanations out. No service code.

>>> explainer = Explainer.load(bundle)
>>> [answer] = explainer.explain([tensor], [ExplainOptions(top_k=3)])
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proponent.attribution.capture import CaptureSession
from proponent.attribution.embedding import ExactEmbedding, InfluenceEmbedding
from proponent.attribution.gradients import (
    ScaledGradient,
    contrast_output_gradient,
    join,
    scaled_output_gradient,
)
from proponent.attribution.layers import Layers, find_layers
from proponent.attribution.subspace import SubspaceEmbedding
from proponent.classifier import Classifier, load_classifier
from proponent.errors import CorruptBundleError, InvalidInputError, MismatchError, ProponentError
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, read_manifest, verify_files
from proponent.index.catalog import Catalog, CatalogEntry
from proponent.index.rows import Hits, InfluenceIndex, Query
from proponent.inputs import InputSignature
from proponent.results import (
    ExplainOptions,
    Explanation,
    Filter,
    Influence,
    Measure,
    MeasureResult,
    Notice,
    NoticeCode,
    Prediction,
    Quality,
    Target,
    View,
)
from proponent.spec import ModelSpec, parse_spec


@dataclass(frozen=True)
class EmbeddedQuery:
    """One input as the index sees it.

    Attributes:
        direction: phi / ||phi||, [K] float32; zero where there is no direction.
        norm: ||phi||.
        scale: Largest entry of the output gradient, 0 where the loss is flat.
        target: Class whose loss is explained.
    """

    prediction: Prediction
    direction: Tensor
    norm: float
    scale: float
    directed: bool
    target: int


class Stopwatch:
    """Seconds by stage, of one batch."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Explainer:
    """A classifier with its bundle. Not thread-safe: hooks on the model are per call."""

    def __init__(
        self,
        classifier: Classifier,
        manifest: Manifest,
        embedding: InfluenceEmbedding,
        index: InfluenceIndex,
        catalog: Catalog,
        layers: Layers,
    ) -> None:
        self.classifier = classifier
        self.manifest = manifest
        self.index = index
        self.catalog = catalog
        self._embedding = embedding
        self._layers = layers
        self._labels = torch.tensor(catalog.labels())
        self._omitted = int((~index.scales.directed).sum())

    @classmethod
    def load(cls, bundle: Path, *, weights: Path | None = None, device: torch.device | None = None) -> Explainer:
        """Opens a bundle after checking every file; ``weights`` are those deployed, if not the bundle's own.

        Raises:
            CorruptBundleError: A file is missing or damaged.
            MismatchError: The weights loaded are not those that the bundle was built for.
        """
        manifest = read_manifest(bundle)
        verify_files(bundle, manifest)
        spec = read_spec(bundle)
        classifier = load_classifier(spec, weights=weights or bundle / files.WEIGHTS, device=device)
        _check_weights(classifier, manifest, weights or bundle / files.WEIGHTS)
        layers = find_layers(classifier.model, spec.curvature.layers)
        embedding = _load_embedding(bundle / files.FACTORS, manifest.curvature, layers).to(classifier.device)
        index = InfluenceIndex.open(
            bundle / files.ROWS, bundle / files.SCALES, manifest.embedding_size, classifier.device
        )
        return cls(classifier, manifest, embedding, index, Catalog.open(bundle / files.CATALOG), layers)

    @property
    def signature(self) -> InputSignature:
        """What one input must look like."""
        m = self.manifest
        return InputSignature(tuple(m.input_shape), m.image_mode, tuple(m.image_size))

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction | ProponentError]:
        """Predictions of inputs of the signature's shape; no gradient, no index."""
        with torch.inference_mode():
            outputs = self.classifier.model(torch.stack(list(inputs)).to(self.classifier.device))
        return self._predictions(outputs)

    def explain(
        self, inputs: Sequence[Tensor], options: Sequence[ExplainOptions]
    ) -> list[Explanation | ProponentError]:
        """One answer or error for each input; one forward, one backward and one scan for all of them."""
        clock = Stopwatch()
        queries = self.embed(inputs, [option.target for option in options], clock)
        answers: list[Explanation | ProponentError] = []
        with clock.stage("search"):
            searched = self._search_all(queries, options)
        for query, option, found in zip(queries, options, searched, strict=True):
            if isinstance(query, ProponentError):
                answers.append(query)
                continue
            with clock.stage("lookup"):
                answers.append(self._answer(query, option, found, clock.seconds))
        return answers

    def embed(
        self, inputs: Sequence[Tensor], targets: Sequence[Target], clock: Stopwatch
    ) -> list[EmbeddedQuery | ProponentError]:
        """Predictions and phi of a batch, each at its own target."""
        batch = torch.stack(list(inputs)).to(self.classifier.device)
        with CaptureSession(self.classifier.model, self._layers) as session:
            with clock.stage("forward"):
                outputs = session.forward(batch)
                predictions = self._predictions(outputs)
            chosen = [self._target(p, t) for p, t in zip(predictions, targets, strict=True)]
            with clock.stage("backward"):
                scaled = self._output_gradients(outputs, chosen)
                gradients = session.backward(scaled.unit)
            with clock.stage("embed"):
                phi = self._embedding.embed(gradients).double()
        norms = phi.norm(dim=1)
        safe = torch.where(norms > 0, norms, torch.ones_like(norms))
        directions = (phi / safe[:, None]).float()
        sizes, scales = (norms * scaled.scale).tolist(), scaled.scale.tolist()
        directed = (scaled.directed & (norms > 0)).tolist()
        found: list[EmbeddedQuery | ProponentError] = []
        for b, (choice, prediction) in enumerate(zip(chosen, predictions, strict=True)):
            if isinstance(prediction, ProponentError):
                found.append(prediction)
            elif isinstance(choice, ProponentError):
                found.append(choice)
            else:
                found.append(EmbeddedQuery(prediction, directions[b], sizes[b], scales[b], directed[b], choice[0]))
        return found

    def _predictions(self, outputs: Tensor) -> list[Prediction | ProponentError]:
        probabilities = self.classifier.loss.probabilities(outputs.double()).cpu()
        classes = self.classifier.loss.predict(outputs).tolist()
        return [self._prediction(c, p) for c, p in zip(classes, probabilities, strict=True)]

    def _prediction(self, class_id: int, probabilities: Tensor) -> Prediction | ProponentError:
        if not bool(torch.isfinite(probabilities).all()):
            return InvalidInputError("the model's output is not finite for this input", field="input")
        return Prediction(class_id, self.classifier.class_names[class_id], probabilities.tolist())

    def _target(
        self, prediction: Prediction | ProponentError, target: Target
    ) -> tuple[int, int | None] | ProponentError:
        if isinstance(prediction, ProponentError):
            return prediction
        count = len(self.classifier.class_names)
        for value, name in ((target.class_id, "class_id"), (target.against, "contrast.against_class_id")):
            if value is not None and not 0 <= value < count:
                return InvalidInputError(
                    f"class {value} is unknown, expected 0..{count - 1}",
                    field=f"target.{name}",
                    reason="CLASS_UNKNOWN",
                )
        if target.against is not None and target.against == target.class_id:
            return InvalidInputError(
                f"contrast of class {target.against} with itself", field="target.contrast", reason="CLASS_UNKNOWN"
            )
        return (prediction.class_id if target.class_id is None else target.class_id), target.against

    def _output_gradients(
        self, outputs: Tensor, chosen: Sequence[tuple[int, int | None] | ProponentError]
    ) -> ScaledGradient:
        return join([self._output_gradient(outputs[b : b + 1], choice) for b, choice in enumerate(chosen)])

    def _output_gradient(self, outputs: Tensor, choice: tuple[int, int | None] | ProponentError) -> ScaledGradient:
        if isinstance(choice, ProponentError):
            return ScaledGradient(torch.zeros_like(outputs), outputs.new_zeros(1, dtype=torch.float64))
        wanted, other = choice
        label = torch.tensor([wanted], device=outputs.device)
        if other is None:
            return scaled_output_gradient(self.classifier.loss, outputs, label)
        return contrast_output_gradient(
            self.classifier.loss, outputs, label, torch.tensor([other], device=outputs.device)
        )

    def _search_all(
        self, queries: Sequence[EmbeddedQuery | ProponentError], options: Sequence[ExplainOptions]
    ) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
        """Hits of every query; none where there is an error or no direction."""
        found: list[Mapping[Measure, tuple[Hits, Hits]]] = [{} for _ in queries]
        open_ = [b for b, q in enumerate(queries) if isinstance(q, EmbeddedQuery) and q.directed]
        batch = [self._query(queries[b], options[b]) for b in open_]
        if batch:
            for b, hits in zip(open_, self.index.search(batch, tuple(Measure)), strict=True):
                found[b] = hits
        return found

    def _query(self, query: EmbeddedQuery | ProponentError, option: ExplainOptions) -> Query:
        assert isinstance(query, EmbeddedQuery)
        return Query(query.direction, query.norm, min(option.top_k, len(self.index)), self._eligible(option.filter))

    def _eligible(self, chosen: Filter) -> Tensor | None:
        if not chosen.active:
            return None
        mask = torch.ones(len(self._labels), dtype=torch.bool)
        if chosen.allow:
            mask &= torch.isin(self._labels, torch.tensor(sorted(chosen.allow)))
        if chosen.deny:
            mask &= ~torch.isin(self._labels, torch.tensor(sorted(chosen.deny)))
        if chosen.exclude:
            mask[list(self.catalog.rows_of(chosen.exclude).values())] = False
        return mask

    def _answer(
        self,
        query: EmbeddedQuery,
        option: ExplainOptions,
        found: Mapping[Measure, tuple[Hits, Hits]],
        seconds: Mapping[str, float],
    ) -> Explanation:
        measures = [measure for measure in Measure if measure in option.measures]
        hits = {measure: found.get(measure, (Hits([], []), Hits([], []))) for measure in measures}
        rows = [row for ends in hits.values() for end in ends for row in end.rows]
        entries = self.catalog.by_rows(rows, thumbnails=option.view >= View.THUMBNAIL)
        results = [
            MeasureResult(
                measure,
                self._influences(hits[measure][0], entries, option.view),
                self._influences(hits[measure][1], entries, option.view),
            )
            for measure in measures
        ]
        return Explanation(
            prediction=query.prediction,
            results=results,
            target_class_id=query.target,
            bundle_digest=self.manifest.digest,
            quality=Quality(self.manifest.curvature, self.manifest.kept_energy, self.manifest.audit),
            train_size=self.manifest.train_size,
            notices=self._notices(query, option),
            timings=dict(seconds),
        )

    def _influences(self, hits: Hits, entries: Mapping[int, CatalogEntry], view: View) -> list[Influence]:
        return [
            self._influence(entries[row], score, rank, view)
            for rank, (row, score) in enumerate(zip(hits.rows, hits.scores, strict=True), start=1)
        ]

    def _influence(self, entry: CatalogEntry, score: float, rank: int, view: View) -> Influence:
        return Influence(
            example_id=entry.example_id,
            score=score,
            rank=rank,
            class_id=entry.class_id,
            label=self.classifier.class_names[entry.class_id],
            predicted_class_id=entry.predicted_class_id,
            self_influence=entry.self_influence,
            source=entry.source if view >= View.METADATA else "",
            thumbnail=entry.thumbnail,
        )

    def _notices(self, query: EmbeddedQuery, option: ExplainOptions) -> list[Notice]:
        notices = [self._no_influence(query)] if not query.directed else []
        eligible = self._eligible(option.filter)
        available = len(self.index) if eligible is None else int(eligible.sum())
        if option.top_k > available:
            notices.append(
                Notice(NoticeCode.K_CAPPED, f"top_k {option.top_k} was capped to {available} examples", available)
            )
        if self._omitted and set(option.measures) - {Measure.INFLUENCE}:
            notices.append(
                Notice(
                    NoticeCode.ROWS_OMITTED,
                    f"{self._omitted} training examples without a gradient direction take no part in RelatIF",
                    self._omitted,
                )
            )
        if self.manifest.uncovered:
            notices.append(
                Notice(
                    NoticeCode.LAYERS_UNCOVERED,
                    f"{self.manifest.uncovered_share:.2%} of the model's parameters are not covered",
                    len(self.manifest.uncovered),
                )
            )
        return notices

    def _no_influence(self, query: EmbeddedQuery) -> Notice:
        if query.scale == 0:
            return Notice(
                NoticeCode.ZERO_INFLUENCE, "the loss is flat at this input: every influence is exactly zero"
            )
        return Notice(
            NoticeCode.NO_DIRECTION, f"the input's own gradient ({query.scale:.1e}) is too small to have a direction"
        )


def read_spec(bundle: Path) -> ModelSpec:
    """The spec stored in a bundle."""
    path = bundle / files.SPEC
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CorruptBundleError(f"spec cannot be read: {path}: {error}", field=files.SPEC) from error
    return parse_spec(content, origin=str(path))


def _check_weights(classifier: Classifier, manifest: Manifest, weights: Path) -> None:
    if classifier.weights_sha256 != manifest.weights_sha256:
        raise MismatchError(
            f"bundle {manifest.digest[:12]} was built for weights {manifest.weights_sha256[:12]}, but the model has "
            f"loaded weights {classifier.weights_sha256[:12]} from {weights}: run proponent rebuild",
            field="weights",
        )


def _load_embedding(path: Path, kind: str, layers: Layers) -> InfluenceEmbedding:
    try:
        tensors = load_file(path)
        if kind == "exact":
            return ExactEmbedding.from_tensors(tensors, layers)
        return SubspaceEmbedding.from_tensors(kind, tensors, layers)
    except (SafetensorError, OSError, KeyError) as error:
        raise CorruptBundleError(f"factors cannot be read: {path}: {error}", field=path.name) from error
