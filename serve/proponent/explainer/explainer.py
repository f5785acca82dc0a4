"""The explainer: a classifier and its bundle, asked in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.embedding import InfluenceEmbedding
from proponent.attribution.layers import Layers, find_layers
from proponent.classifier import Classifier, load_classifier
from proponent.errors import ProponentError
from proponent.explainer.answers import Answers, capped
from proponent.explainer.opening import check_weights, load_embedding, read_spec
from proponent.explainer.query import EmbeddedQuery, QueryEmbedder, Stopwatch
from proponent.explainer.retrieval import Found, Retrieval
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, read_manifest, verify_files
from proponent.index.catalog import Catalog
from proponent.index.rows import InfluenceIndex
from proponent.inputs import InputSignature
from proponent.results import ExplainOptions, Explanation, Prediction, Quality, Target


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
        self._embedder = QueryEmbedder(classifier, embedding, layers)
        self._retrieval = Retrieval(index, catalog)
        omitted = int((~index.scales.directed).sum())
        self._answers = Answers(manifest, catalog, classifier.class_names, omitted)

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
        check_weights(classifier, manifest, weights or bundle / files.WEIGHTS)
        layers = find_layers(classifier.model, spec.curvature.layers)
        embedding = load_embedding(bundle / files.FACTORS, manifest.curvature, layers).to(classifier.device)
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
        return self._embedder.predict(inputs)

    def explain(
        self, inputs: Sequence[Tensor], options: Sequence[ExplainOptions]
    ) -> list[Explanation | ProponentError]:
        """One answer or error for each input; one forward, one backward and one scan for all of them."""
        clock = Stopwatch()
        queries = self.embed(inputs, [option.target for option in options], clock)
        with clock.stage("search"):
            searched = self._retrieval.search(queries, options)
        answers: list[Explanation | ProponentError] = []
        for query, option, found in zip(queries, options, searched, strict=True):
            if isinstance(query, ProponentError):
                answers.append(query)
                continue
            with clock.stage("lookup"):
                answers.append(self._explanation(query, option, found, clock.seconds))
        return answers

    def embed(
        self, inputs: Sequence[Tensor], targets: Sequence[Target], clock: Stopwatch
    ) -> list[EmbeddedQuery | ProponentError]:
        """Predictions and phi of a batch, each at its own target."""
        return self._embedder.embed(inputs, targets, clock)

    def _explanation(
        self, query: EmbeddedQuery, option: ExplainOptions, found: Found, seconds: Mapping[str, float]
    ) -> Explanation:
        limits = capped(option.top_k, self._retrieval.available(option.filter))
        return Explanation(
            prediction=query.prediction,
            results=self._answers.results(found, option),
            target_class_id=query.target,
            bundle_digest=self.manifest.digest,
            quality=Quality(self.manifest.curvature, self.manifest.kept_energy, self.manifest.audit),
            train_size=self.manifest.train_size,
            notices=[*self._answers.notices(query, option.measures), *limits],
            timings=dict(seconds),
        )
