"""A blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.message import Message

from proponent.client import requests, rpcs
from proponent.client.connection import Connection, Tls
from proponent.client.failures import failure_of
from proponent.client.inputs import Input
from proponent.client.requests import DEFAULTS, PREDICTED
from proponent.client.retry import BACKOFF, Deadline, Retry
from proponent.client.rpcs import Result, Rpc
from proponent.errors import ProponentError
from proponent.results import (
    Estimator,
    ExplainOptions,
    Explanation,
    FlipSet,
    ModelInfo,
    Prediction,
    RemovalEstimate,
    ScoredExamples,
    Suspects,
    Target,
    TrainingExample,
)
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub


class Client:
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

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        *,
        model: str = "",
        token: str | None = None,
        tls: Tls | None = None,
        timeout_s: float | None = 30.0,
        retry: Retry = BACKOFF,
    ) -> None:
        self.model = model
        self._connection = Connection(address, token, tls)
        self._channel = self._connection.channel()
        self._stub = ExplanationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s
        self._retry = retry

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
        return self._call(rpcs.PREDICT, requests.predict_request(self._named(model), value))

    def explain(self, value: Input, options: ExplainOptions = DEFAULTS, *, model: str | None = None) -> Explanation:
        """The prediction with the training examples that argued for it (positive scores) and against it."""
        request = requests.explain_request(self._named(model), value, options)
        return self._call(rpcs.EXPLAIN, request)

    def explain_many(
        self, values: Iterable[Input], options: ExplainOptions = DEFAULTS, *, model: str | None = None
    ) -> Iterator[tuple[int, Explanation | ProponentError]]:
        """Explanations of many inputs over one call, as they are ready, each with its input's position.

        An input that fails has its error in place of an explanation, and the others go on. ``values`` is read only
        as fast as the service takes it.
        """
        name = self._named(model)
        stream = self._stub.StreamExplain(
            requests.stream(name, values, options), timeout=self._timeout_s, metadata=self._connection.metadata
        )
        try:
            for item in stream:
                yield rpcs.read_item(item)
        except grpc.RpcError as error:
            raise failure_of(error).error from None
        finally:
            stream.cancel()

    def score_examples(
        self,
        value: Input,
        example_ids: Sequence[str],
        options: ExplainOptions = DEFAULTS,
        *,
        model: str | None = None,
    ) -> ScoredExamples:
        """The exact scores of named training examples for one input, in the order named."""
        request = requests.score_request(self._named(model), value, example_ids, options)
        return self._call(rpcs.SCORE, request)

    def estimate_removal(
        self,
        value: Input,
        example_ids: Sequence[str],
        target: Target = PREDICTED,
        *,
        estimator: Estimator = Estimator.FIRST_ORDER,
        model: str | None = None,
    ) -> RemovalEstimate:
        """What the removal of a group, and training anew, is predicted to change for one input."""
        request = requests.removal_request(self._named(model), value, example_ids, target, estimator)
        return self._call(rpcs.REMOVAL, request)

    def find_flip_set(self, value: Input, max_size: int = 0, *, model: str | None = None) -> FlipSet:
        """A small set whose removal is predicted to flip the prediction; 0 looks at a tenth of the training set."""
        request = requests.flip_request(self._named(model), value, max_size)
        return self._call(rpcs.FLIP, request)

    def get_example(self, example_id: str, *, model: str | None = None) -> TrainingExample:
        """One training example, where the operator discloses them."""
        request = pb.GetExampleRequest(model=self._named(model), example_id=example_id)
        return self._call(rpcs.EXAMPLE, request)

    def get_model(self, *, model: str | None = None) -> ModelInfo:
        """What is served: bundle, curvature, classes, and what the audit measured."""
        return self._call(rpcs.MODEL, pb.GetModelRequest(model=self._named(model)))

    def list_suspects(self, limit: int = 100, page_token: str = "", *, model: str | None = None) -> Suspects:
        """The training examples most likely to be wrongly labelled; ``next_page_token`` asks for the next page."""
        request = pb.ListSuspectsRequest(model=self._named(model), limit=limit, page_token=page_token)
        return self._call(rpcs.SUSPECTS, request)

    def _named(self, model: str | None) -> str:
        return self.model if model is None else model

    def _call(self, rpc: Rpc[Result], request: Message) -> Result:
        method, deadline, tried = getattr(self._stub, rpc.name), Deadline(self._timeout_s), 0
        while True:
            tried += 1
            try:
                return rpc.read(method(request, timeout=deadline.left_s(), metadata=self._connection.metadata))
            except grpc.RpcError as error:
                failure = failure_of(error)
            wait_s = self._retry.wait_s(failure, tried)
            if wait_s is None or not deadline.allows(wait_s):
                raise failure.error
            time.sleep(wait_s)
