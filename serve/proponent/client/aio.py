"""A client for asyncio; see `proponent.client.sync` for the blocking one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
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
from proponent.v1 import explanation_pb2 as pb


class AsyncClient(ServiceClient):
    """A service's calls as coroutines, in one event loop.

    Every method raises a `ProponentError` with the server's message, ``reason`` and ``field``: InvalidInputError,
    NotFoundError, PermissionDeniedError, MismatchError, OverloadedError, UnavailableError or DeadlineError.

    >>> import asyncio
    >>> from proponent import AsyncClient
    >>> async def main():
    ...     async with AsyncClient("127.0.0.1:8500", model="digits") as client:
    ...         return client.model
    >>> asyncio.run(main())
    'digits'

    The arguments are those of `Client`.
    """

    @override
    def _open(self, connection: Connection) -> grpc.aio.Channel:
        return connection.aio_channel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        await self._channel.close()

    async def predict(self, value: Input, *, model: str | None = None) -> Prediction:
        """The predicted class of one input with its probabilities."""
        return await self._call(rpcs.predict(self._named(model), value))

    async def explain(
        self, value: Input, options: ExplainOptions = DEFAULTS, *, model: str | None = None
    ) -> Explanation:
        """The prediction with the training examples that argued for it (positive scores) and against it."""
        return await self._call(rpcs.explain(self._named(model), value, options))

    async def explain_many(
        self, values: Iterable[Input], options: ExplainOptions = DEFAULTS, *, model: str | None = None
    ) -> AsyncIterator[tuple[int, Explanation | ProponentError]]:
        """Explanations of many inputs over one call, as they are ready, each with its input's position.

        An input that fails has its error in place of an explanation, and the others go on. ``values`` is read only
        as fast as the service takes it; what it raises itself comes after the answers to what it gave before. It is
        one call, which ``timeout_s`` bounds as a whole and which is not tried again.
        """
        asked = ExplainRequests(self._named(model), values, options)
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        requests = _if_accepted(asked, accepted)
        answers = self._stub.StreamExplain(requests, timeout=self._timeout_s, metadata=self._metadata)
        try:
            accepted.set_result(bool(await answers.initial_metadata()))
            async for item in answers:
                yield asked.beside(*rpcs.read_item(item))
                for failed in asked.unusable():
                    yield failed
        except grpc.aio.AioRpcError as error:
            raise failure_of(error).error from None
        finally:
            if not accepted.done():
                accepted.set_result(False)
            answers.cancel()
        for failed in asked.unusable():
            yield failed
        asked.raise_broken()

    async def score_examples(
        self,
        value: Input,
        example_ids: Sequence[str],
        options: ExplainOptions = DEFAULTS,
        *,
        model: str | None = None,
    ) -> ScoredExamples:
        """The exact scores of named training examples for one input, in the order named."""
        return await self._call(rpcs.score_examples(self._named(model), value, example_ids, options))

    async def highlight_examples(
        self,
        value: Input,
        example_ids: Sequence[str],
        options: ExplainOptions = DEFAULTS,
        *,
        model: str | None = None,
    ) -> Highlights:
        """Which words of a `Text` carry the influence of named training texts; View.THUMBNAIL adds theirs."""
        return await self._call(rpcs.highlight_examples(self._named(model), value, example_ids, options))

    async def estimate_removal(
        self,
        value: Input,
        example_ids: Sequence[str],
        target: Target = PREDICTED,
        *,
        estimator: Estimator = Estimator.FIRST_ORDER,
        model: str | None = None,
    ) -> RemovalEstimate:
        """What the removal of a group, and retraining without it, is predicted to change for one input."""
        return await self._call(rpcs.estimate_removal(self._named(model), value, example_ids, target, estimator))

    async def find_flip_set(self, value: Input, max_size: int = 0, *, model: str | None = None) -> FlipSet:
        """A small set whose removal is predicted to flip the prediction; 0 looks at a tenth of the training set."""
        return await self._call(rpcs.find_flip_set(self._named(model), value, max_size))

    async def get_example(self, example_id: str, *, model: str | None = None) -> TrainingExample:
        """One training example, where the operator discloses them."""
        return await self._call(rpcs.get_example(self._named(model), example_id))

    async def get_model(self, *, model: str | None = None) -> ModelInfo:
        """What is served: bundle, curvature, classes, and what the audit measured."""
        return await self._call(rpcs.get_model(self._named(model)))

    async def list_suspects(self, limit: int = 100, page_token: str = "", *, model: str | None = None) -> Suspects:
        """The training examples most likely to be wrongly labelled; ``next_page_token`` asks for the next page."""
        return await self._call(rpcs.list_suspects(self._named(model), limit, page_token))

    async def list_samples(
        self, page_size: int = 100, page_token: str = "", *, view: View = View.ID_ONLY, model: str | None = None
    ) -> SamplePage:
        """Held-out inputs that the bundle keeps, where the operator discloses them; View.THUMBNAIL adds pictures."""
        return await self._call(listings.list_samples(self._named(model), page_size, page_token, view))

    async def get_sample(self, sample_id: str, *, model: str | None = None) -> Sample:
        """One of them with its input, which ``explain`` takes as it is."""
        return await self._call(listings.get_sample(self._named(model), sample_id))

    async def list_examples(
        self,
        query: ExampleQuery = EVERYTHING,
        page_size: int = 100,
        page_token: str = "",
        *,
        view: View = View.ID_ONLY,
        model: str | None = None,
    ) -> ExamplePage:
        """Training examples, where the operator discloses them; ``next_page_token`` asks for the next page."""
        return await self._call(listings.list_examples(self._named(model), query, page_size, page_token, view))

    async def summarize_examples(self, bins: int = 40, *, model: str | None = None) -> ExampleSummary:
        """Counts of training examples by class, and a histogram of self-influence."""
        return await self._call(listings.summarize_examples(self._named(model), bins))

    async def list_frequent_examples(
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
        return await self._call(rpc)

    async def list_bundles(self, *, model: str | None = None) -> Bundles:
        """The bundles of the model that lie in the store, newest first."""
        return await self._call(listings.list_bundles(self._named(model)))

    async def diff_bundles(
        self,
        base: str = "",
        other: str = "",
        measure: Measure = Measure.INFLUENCE,
        top_k: int | None = None,
        *,
        model: str | None = None,
    ) -> BundleDiff:
        """What changed in the reasons between two bundles; by default the one before and that in service."""
        return await self._call(listings.diff_bundles(self._named(model), base, other, measure, top_k))

    async def _call(self, rpc: Rpc[Result]) -> Result:
        method, tries = getattr(self._stub, rpc.method), self._tries()
        while True:
            try:
                return rpc.read(await method(rpc.request, timeout=tries.left_s(), metadata=self._metadata))
            except grpc.aio.AioRpcError as error:
                wait_s = tries.wait_s(error)
            await asyncio.sleep(wait_s)


async def _if_accepted(
    asked: Iterable[pb.StreamExplainRequest], accepted: asyncio.Future[bool]
) -> AsyncIterator[pb.StreamExplainRequest]:
    """The requests of a stream once the service has taken it, which its first metadata say.

    gRPC has an error of its own for what is written to a call that was refused, in place of the reason.
    """
    if await accepted:
        for request in asked:
            yield request
