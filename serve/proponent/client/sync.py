"""A blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc
from typing_extensions import override

from proponent.client import listings, rpcs
from proponent.client.base import DEFAULTS, EVERYTHING, PREDICTED, ServiceClient
from proponent.client.connection import Connection
from proponent.client.failures import failure_of
from proponent.client.inputs import Input
from proponent.client.requests import ExplainRequests
from proponent.client.rpcs import Result, Rpc
from proponent.errors import ProponentError
from proponent.listings import (
    BundleDiff,
    Bundles,
    ExamplePage,
    ExampleSummary,
    FrequentExamples,
    Sample,
    SamplePage,
)
from proponent.options import Estimator, ExampleQuery, ExplainOptions, Measure, Side, Target, View
from proponent.results import (
    Explanation,
    FlipSet,
    Highlights,
    ModelInfo,
    Prediction,
    RemovalEstimate,
    ScoredExamples,
    Suspects,
    TrainingExample,
)


class Client(ServiceClient):
    """A service's calls as methods; safe to use from several threads.

    Every method raises a `ProponentError` with the server's message, ``reason`` and ``field``: InvalidInputError,
    NotFoundError, PermissionDeniedError, MismatchError, OverloadedError, UnavailableError or DeadlineError.

    >>> from proponent import Client
    >>> client = Client("127.0.0.1:8500", model="digits", timeout_s=10)
    >>> client.close()

    Args:
        address: ``host:port`` of the gRPC endpoint.
        model: The model asked about where a call names no other.
        token: Bearer token.
        tls: Encryption; None speaks in the clear.
        timeout_s: Longest time of a call with all its tries; None waits for ever.
        retry: When and how often a call is tried again.
    """

    @override
    def _open(self, connection: Connection) -> grpc.Channel:
        return connection.channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        self._channel.close()

    def predict(self, value: Input, *, model: str | None = None) -> Prediction:
        """The predicted class of one input with its probabilities."""
        return self._call(rpcs.predict(self._named(model), value))

    def explain(self, value: Input, options: ExplainOptions = DEFAULTS, *, model: str | None = None) -> Explanation:
        """The prediction with the training examples that argued for it (positive scores) and against it."""
        return self._call(rpcs.explain(self._named(model), value, options))

    def explain_many(
        self, values: Iterable[Input], options: ExplainOptions = DEFAULTS, *, model: str | None = None
    ) -> Iterator[tuple[int, Explanation | ProponentError]]:
        """Explanations of many inputs over one call, as they are ready, each with its input's position.

        An input that fails has its error in place of an explanation, and the others go on. ``values`` is read only
        as fast as the service takes it; what it raises itself comes after the answers to what it gave before. It is
        one call, which ``timeout_s`` bounds as a whole and which is not tried again.
        """
        asked = ExplainRequests(self._named(model), values, options)
        answers = self._stub.StreamExplain(iter(asked), timeout=self._timeout_s, metadata=self._metadata)
        try:
            for item in answers:
                yield asked.beside(*rpcs.read_item(item))
                yield from asked.unusable()
        except grpc.RpcError as error:
            raise failure_of(error).error from None
        finally:
            answers.cancel()
        yield from asked.unusable()
        asked.raise_broken()

    def score_examples(
        self,
        value: Input,
        example_ids: Sequence[str],
        options: ExplainOptions = DEFAULTS,
        *,
        model: str | None = None,
    ) -> ScoredExamples:
        """The exact scores of named training examples for one input, in the order named."""
        return self._call(rpcs.score_examples(self._named(model), value, example_ids, options))

    def highlight_examples(
        self,
        value: Input,
        example_ids: Sequence[str],
        options: ExplainOptions = DEFAULTS,
        *,
        model: str | None = None,
    ) -> Highlights:
        """Which words of a `Text` carry the influence of named training texts; View.THUMBNAIL adds theirs."""
        return self._call(rpcs.highlight_examples(self._named(model), value, example_ids, options))

    def estimate_removal(
        self,
        value: Input,
        example_ids: Sequence[str],
        target: Target = PREDICTED,
        *,
        estimator: Estimator = Estimator.FIRST_ORDER,
        model: str | None = None,
    ) -> RemovalEstimate:
        """What the removal of a group, and retraining without it, is predicted to change for one input."""
        return self._call(rpcs.estimate_removal(self._named(model), value, example_ids, target, estimator))

    def find_flip_set(self, value: Input, max_size: int = 0, *, model: str | None = None) -> FlipSet:
        """A small set whose removal is predicted to flip the prediction; 0 looks at a tenth of the training set."""
        return self._call(rpcs.find_flip_set(self._named(model), value, max_size))

    def get_example(self, example_id: str, *, model: str | None = None) -> TrainingExample:
        """One training example, where the operator discloses them."""
        return self._call(rpcs.get_example(self._named(model), example_id))

    def get_model(self, *, model: str | None = None) -> ModelInfo:
        """What is served: bundle, curvature, classes, and what the audit measured."""
        return self._call(rpcs.get_model(self._named(model)))

    def list_suspects(self, limit: int = 100, page_token: str = "", *, model: str | None = None) -> Suspects:
        """The training examples most likely to be wrongly labelled; ``next_page_token`` asks for the next page."""
        return self._call(rpcs.list_suspects(self._named(model), limit, page_token))

    def list_samples(
        self, page_size: int = 100, page_token: str = "", *, view: View = View.ID_ONLY, model: str | None = None
    ) -> SamplePage:
        """Held-out inputs that the bundle keeps, where the operator discloses them; View.THUMBNAIL adds pictures."""
        return self._call(listings.list_samples(self._named(model), page_size, page_token, view))

    def get_sample(self, sample_id: str, *, model: str | None = None) -> Sample:
        """One of them with its input, which ``explain`` takes as it is."""
        return self._call(listings.get_sample(self._named(model), sample_id))

    def list_examples(
        self,
        query: ExampleQuery = EVERYTHING,
        page_size: int = 100,
        page_token: str = "",
        *,
        view: View = View.ID_ONLY,
        model: str | None = None,
    ) -> ExamplePage:
        """Training examples, where the operator discloses them; ``next_page_token`` asks for the next page."""
        return self._call(listings.list_examples(self._named(model), query, page_size, page_token, view))

    def summarize_examples(self, bins: int = 40, *, model: str | None = None) -> ExampleSummary:
        """Counts of training examples by class, and a histogram of self-influence."""
        return self._call(listings.summarize_examples(self._named(model), bins))

    def list_frequent_examples(
        self,
        measure: Measure = Measure.INFLUENCE,
        side: Side | None = None,
        top_k: int | None = None,
        limit: int = 100,
        *,
        view: View = View.ID_ONLY,
        model: str | None = None,
    ) -> FrequentExamples:
        """The training examples that stand in most lists of the bundle's samples; no ``side`` counts both."""
        rpc = listings.list_frequent_examples(self._named(model), measure, side, top_k, limit, view)
        return self._call(rpc)

    def list_bundles(self, *, model: str | None = None) -> Bundles:
        """The bundles of the model that lie in the store, newest first."""
        return self._call(listings.list_bundles(self._named(model)))

    def diff_bundles(
        self,
        base: str = "",
        other: str = "",
        measure: Measure = Measure.INFLUENCE,
        top_k: int | None = None,
        *,
        model: str | None = None,
    ) -> BundleDiff:
        """What changed in the reasons between two bundles; by default the one before and that in service."""
        return self._call(listings.diff_bundles(self._named(model), base, other, measure, top_k))

    def _call(self, rpc: Rpc[Result]) -> Result:
        method, tries = getattr(self._stub, rpc.method), self._tries()
        while True:
            try:
                return rpc.read(method(rpc.request, timeout=tries.left_s(), metadata=self._metadata))
            except grpc.RpcError as error:
                wait_s = tries.wait_s(error)
            time.sleep(wait_s)
