"""The explainer: a classifier and its bundle, asked in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch

from proponent.allocator import keep_freed_memory
from proponent.attribution.embedding.base import InfluenceEmbedding
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.inputs import Example
from proponent.bounds.cancellation import Token, always, checkpoint
from proponent.classifier import Classifier
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer.answers import Answers, beside
from proponent.explainer.highlights import Asked, highlighted
from proponent.explainer.opening import load_bundled_classifier, load_embedding
from proponent.explainer.predictor import Given, Predictor, apart
from proponent.explainer.query import EmbeddedQuery, QueryEmbedder
from proponent.explainer.removal import Removals
from proponent.explainer.retrieval import Found, Retrieval
from proponent.explainer.triage import SKIPPED, is_worth_explaining
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, read_manifest, verify_files
from proponent.index.catalog import Catalog
from proponent.index.lock import BundleLock
from proponent.index.rows import InfluenceIndex
from proponent.index.scan import Query
from proponent.index.search import exact_scores
from proponent.index.searchable import SearchableRows
from proponent.index.served_files import ServedFiles
from proponent.index.tombstones import Tombstones
from proponent.input_checks import check_weighable
from proponent.options import Estimator, ExplainOptions, Measure, Target
from proponent.results import (
    Explanation,
    FlipSet,
    Highlights,
    MeasureScores,
    Prediction,
    Quality,
    RemovalEstimate,
    ScoredExamples,
)
from proponent.stages import Stopwatch, stage
from proponent.text import Text

OpenRows = Callable[[Path, Manifest], SearchableRows]
"""Opens the rows of a bundle's directory, and compares them with their checksum."""


class Explainer(Predictor):
    """A classifier with its bundle. Not thread-safe: hooks on the model are per call.

    >>> from PIL import Image
    >>> from proponent import Explainer, ExplainOptions, Measure, Store
    >>> from proponent.datasets.transforms import pixels
    >>> explainer = Explainer.load(Store(store).current("digits"))
    >>> value = pixels(Image.new("L", (8, 8), 128))  # [1, 8, 8] float32, as the model takes it
    >>> [found] = explainer.explain([value], [ExplainOptions(measures=(Measure.L_RELATIF,), top_k=3)])
    >>> [proponents] = [result.proponents for result in found.results]
    >>> len(proponents), proponents[0].rank, all(one.score > 0 for one in proponents)
    (3, 1, True)
    """

    def __init__(
        self,
        classifier: Classifier,
        manifest: Manifest,
        embedding: InfluenceEmbedding,
        index: SearchableRows,
        catalog: Catalog,
        layers: Layers,
        tombstones: Tombstones | None = None,
        hold: BundleLock | None = None,
        files: ServedFiles | None = None,
    ) -> None:
        super().__init__(classifier, manifest, hold)
        self.index = index
        self.catalog = catalog
        self._files = files
        self._embedder = QueryEmbedder(classifier, embedding, layers)
        self._retrieval = Retrieval(index, catalog, tombstones or Tombstones(None))
        omitted = int((~index.scales.has_direction).sum())
        all_zero = not bool(index.scales.norms.any())
        self._answers = Answers(manifest, catalog, classifier.class_names, omitted, all_zero=all_zero)
        self._removals = Removals(self._embedder, self._retrieval, self._answers, manifest)

    @classmethod
    def load(
        cls,
        bundle: Path,
        *,
        weights: Path | None = None,
        device: torch.device | None = None,
        open_rows: OpenRows | None = None,
    ) -> Self:
        """Opens a bundle after checking every file.

        Args:
            bundle: Its directory.
            weights: Those deployed, if not the bundle's own.
            device: Where the model runs; None takes what the spec says.
            open_rows: Opens and checks rows that lie elsewhere than in this process.

        Raises:
            CorruptBundleError: A file is missing or damaged.
            MismatchError: The weights or the model's code are not those that the bundle was built for.
        """
        keep_freed_memory()
        manifest = read_manifest(bundle)
        hold = BundleLock(bundle)
        served = ServedFiles(bundle, manifest)
        verify_files(bundle, manifest, besides=(files.ROWS,) if open_rows else ())
        classifier = load_bundled_classifier(bundle, manifest, weights, device)
        loaded = cls.of_files(bundle, manifest, classifier, Tombstones.beside(bundle), hold, served, open_rows)
        loaded.check()
        return loaded

    @classmethod
    def of_files(
        cls,
        directory: Path,
        manifest: Manifest,
        classifier: Classifier,
        tombstones: Tombstones | None = None,
        hold: BundleLock | None = None,
        served: ServedFiles | None = None,
        open_rows: OpenRows | None = None,
    ) -> Self:
        """Opens files that need no check, of a bundle that may not be finished, for the classifier they belong to."""
        layers = classifier.find_layers()
        embedding = load_embedding(directory / files.FACTORS, manifest.curvature, layers).to(classifier.device)
        index: SearchableRows = (
            open_rows(directory, manifest)
            if open_rows
            else InfluenceIndex.of_bundle(directory, manifest, classifier.device)
        )
        catalog = Catalog.open(directory / files.CATALOG)
        return cls(classifier, manifest, embedding, index, catalog, layers, tombstones, hold, served)

    def close(self) -> None:
        """Closes the catalog."""
        self.catalog.close()

    def check(self) -> None:
        """Looks at what changes outside of this process and answers need; costs some system calls.

        Raises:
            CorruptBundleError: A file that is read while serving was damaged, or the list of forgotten examples
                cannot be read.
            UnavailableError: Some rows cannot be searched now.
        """
        self._retrieval.not_forgotten()
        if self._files is not None:
            self._files.check()
        self.index.check()

    def rehearse(self, value: Example) -> None:
        """Explains one input, which is most of what calls ask for."""
        self.explain([value], [ExplainOptions()])

    def explain(
        self, inputs: Sequence[Given], options: Sequence[ExplainOptions], tokens: Sequence[Token] | None = None
    ) -> list[Explanation | ProponentError]:
        """One answer or error for each input; one forward, one backward and one scan for all that are explained.

        What concerns one input alone is done under its own token, where ``tokens`` are given.

        Args:
            inputs: Of the kind that ``signature`` gives: tensors (floats are taken as float32), mappings of names to
                tensors, each a `proponent.Text`, or records (mappings of columns to scalars).
            options: One for each input.
            tokens: One for each input.

        Raises:
            InvalidInputError: There are more or fewer options than inputs.
        """
        if len(options) != len(inputs):
            message = f"{len(inputs)} inputs came with {len(options)} options, expected one for each"
            raise InvalidInputError(message, field="options")
        usable, refused = self.accept_all(inputs)
        answers = {**refused, **self._not_explained(usable, options)}
        chosen = [number for number in usable if number not in answers]
        given = tokens or [always] * len(inputs)
        explained = apart(
            chosen,
            lambda some: self._explain(
                [usable[n] for n in some], [options[n] for n in some], [given[n] for n in some]
            ),
        )
        answers.update(zip(chosen, explained, strict=True))
        return [beside(answers[number], value) for number, value in enumerate(inputs)]

    def _not_explained(
        self, inputs: Mapping[int, Example], options: Sequence[ExplainOptions]
    ) -> dict[int, Explanation | ProponentError]:
        """The answers to inputs that do not meet their ``explain_if``, by number; they cost a forward."""
        asked = ((number, options[number].explain_if) for number in inputs)
        conditions = {number: condition for number, condition in asked if condition is not None}
        if not conditions:
            return {}
        clock = Stopwatch()
        with clock.stage("forward"):
            predictions = dict(zip(conditions, self._forward.predict([inputs[n] for n in conditions]), strict=True))
        checkpoint()
        return {
            n: self._without_explanation(p, options[n].target, clock.seconds) if isinstance(p, Prediction) else p
            for n, p in predictions.items()
            if not (isinstance(p, Prediction) and is_worth_explaining(p, conditions[n]))
        }

    def _explain(
        self, inputs: Sequence[Example], options: Sequence[ExplainOptions], tokens: Sequence[Token]
    ) -> list[Explanation | ProponentError]:
        if not inputs:
            return []
        clock = Stopwatch()
        pending = self._embedder.begin(inputs, [option.target for option in options], clock, tokens)
        checkpoint()
        with clock.stage("search"):
            begun = self._retrieval.begin(pending.batch.directions, options)
            queries = self._embedder.finish(pending)
            searched = self._retrieval.finish(begun, queries, options, tokens)
        answers: list[Explanation | ProponentError] = []
        for query, option, found in zip(queries, options, searched, strict=True):
            if isinstance(query, ProponentError):
                answers.append(query)
                continue
            if isinstance(found, ProponentError):
                answers.append(found)
                continue
            with clock.stage("lookup"):
                answers.append(self._explanation(query, option, found, clock.seconds))
        return answers

    def score_examples(self, value: Given, example_ids: Sequence[str], options: ExplainOptions) -> ScoredExamples:
        """Exact scores of named examples for one input, in the order named.

        Raises:
            NotFoundError: Names the ids that are unknown.
            InvalidInputError: An unknown class, or an input that the model cannot take.
        """
        rows = self._retrieval.rows_of(example_ids)
        [query] = self.embed([self.accept(value)], [options.target], Stopwatch())
        if isinstance(query, ProponentError):
            raise query
        with stage("search"):
            results = self._scores(query, rows, options)
        return ScoredExamples(
            prediction=query.prediction,
            results=results,
            bundle_digest=self.manifest.digest,
            train_size=self.manifest.train_size,
            notices=self._answers.notices(query, options.measures),
        )

    def estimate_removal(
        self,
        value: Given,
        target: Target,
        example_ids: Sequence[str],
        *,
        estimator: Estimator = Estimator.FIRST_ORDER,
    ) -> RemovalEstimate:
        """What the removal of a group would change for one input; see ``Removals.estimate``."""
        return self._removals.estimate(self.accept(value), target, example_ids, estimator)

    def find_flip_set(self, value: Given, max_size: int = 0) -> FlipSet:
        """A small set whose removal is predicted to flip the prediction; see ``Removals.find_flip_set``."""
        return self._removals.find_flip_set(self.accept(value), max_size)

    def highlight_examples(
        self, value: Text, example_ids: Sequence[str], options: ExplainOptions | None = None
    ) -> Highlights:
        """Which words carry the influence of named training texts on one text; see `proponent.explainer.highlights`.

        Of ``options`` target and view count: ``View.THUMBNAIL`` adds the training texts and their words.

        Raises:
            NotFoundError: Names the ids that are unknown.
            HighlightsUnavailableError: The transform, the model or the bundle does not allow it.
            InvalidInputError: An unknown class, or an input that is no text or that the model cannot take.
        """
        check_weighable("text" if isinstance(value, Text) else "input")
        rows, taken = self._retrieval.rows_of(example_ids), self.accept(value)
        entries = self.catalog.by_rows(rows, contents=True)
        asked = Asked(value.text, taken, options or ExplainOptions())
        return highlighted(self._embedder, self.manifest, [entries[row] for row in rows], asked)

    def embed(
        self,
        inputs: Sequence[Example],
        targets: Sequence[Target],
        clock: Stopwatch,
        tokens: Sequence[Token] | None = None,
    ) -> list[EmbeddedQuery | ProponentError]:
        """Predictions and phi of a batch, each at its own target; see ``QueryEmbedder.embed``."""
        return self._embedder.embed(inputs, targets, clock, tokens)

    def _scores(self, query: EmbeddedQuery, rows: list[int], options: ExplainOptions) -> list[MeasureScores]:
        asked = Query(query.direction, query.norm, len(rows))
        return [
            MeasureScores(
                measure,
                self._answers.influences(rows, exact_scores(self.index, asked, rows, measure), options.view),
            )
            for measure in Measure
            if measure in options.measures
        ]

    def _without_explanation(
        self, prediction: Prediction, target: Target, seconds: Mapping[str, float]
    ) -> Explanation | ProponentError:
        choice = self._embedder.choice(prediction, target)
        if isinstance(choice, ProponentError):
            return choice
        return Explanation(
            prediction=prediction,
            results=[],
            target_class_id=choice[0],
            against_class_id=choice[1],
            bundle_digest=self.manifest.digest,
            quality=self._quality,
            train_size=self.manifest.train_size,
            notices=[SKIPPED],
            timings=dict(seconds),
        )

    @property
    def _quality(self) -> Quality:
        return Quality(self.manifest.curvature, self.manifest.kept_energy, self.manifest.audit)

    def _explanation(
        self, query: EmbeddedQuery, option: ExplainOptions, found: Found, seconds: Mapping[str, float]
    ) -> Explanation:
        return Explanation(
            prediction=query.prediction,
            results=self._answers.results(found.ends, found.outcomes, option),
            target_class_id=query.target,
            against_class_id=query.against,
            bundle_digest=self.manifest.digest,
            quality=self._quality,
            train_size=self.manifest.train_size,
            notices=[*self._answers.notices(query, option.measures), *found.notices],
            timings=seconds,  # shared by the batch, whose last lookup is still to come
        )
