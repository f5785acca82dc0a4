"""The calls of the service, whatever the transport: permission, validation, one request to a worker.

Both transports translate to these calls and from their errors; neither knows anything that the other does not.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import Message

from proponent.errors import DeadlineError, NotFoundError
from proponent.gateway.auth import Authenticator, Scope, require_scope
from proponent.gateway.deployment import Deployment
from proponent.gateway.disclosure import Disclosure
from proponent.gateway.limits.body_budget import BodyBudget
from proponent.gateway.limits.call_cost import check_call_cost
from proponent.gateway.limits.limiter import Limiter
from proponent.gateway.lookups import describe_model, find_example, in_thread, list_suspects
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_explanation, check_group_size, check_input, check_rules
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest


class WorkerTransport(Protocol):
    """Anything that brings a WorkerRequest to a worker and its reply back."""

    async def send(
        self, deployment: Deployment, request: WorkerRequest, timeout_s: float, held: AsyncExitStack
    ) -> WorkerReply:
        """One request, one reply of the same kind; ``held`` is closed when that work is done."""


@dataclass(frozen=True)
class CallContext:
    """What a transport knows of a call beside its message.

    Attributes:
        request_id: Follows the call through logs and replies.
        scopes: What the caller may do, see ``ExplanationCalls.permit``.
        timeout_s: Time that the caller gives it, from ``started``; None where there is no deadline.
        deployment: Makes one bundle answer every part of a call; else each part goes where requests go by then.
        admitted: Of a part of a larger call, which waits for its slot and is not refused: called when it has it.
        started: When the call began, by the monotonic clock.
    """

    request_id: str = ""
    scopes: frozenset[Scope] = frozenset()
    timeout_s: float | None = None
    deployment: Deployment | None = None
    admitted: Callable[[], None] | None = None
    started: float = field(default_factory=time.monotonic)

    def remaining_s(self, longest: float) -> float:
        """Seconds left until the deadline, at most ``longest``."""
        left = longest if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()
        return min(left, longest)


@dataclass(frozen=True)
class Method:
    """A call of the service as transports need to know it.

    Attributes:
        request: Type of its message.
        scope: What ``ExplanationCalls.permit`` is to be asked for before ``run``; None for any known token.
        run: The call itself.
    """

    request: type[Message]
    scope: Scope | None
    run: Callable[[Any, CallContext], Coroutine[Any, Any, Any]]


class ExplanationCalls:
    """The public calls, one method each; all raise ProponentError and nothing else on bad input.

    Transports ask for permission before they read a message; a call is made with the context that ``permit`` returns.

    Attributes:
        models: What is served, by name.
        bodies: The memory for request bodies, which both transports share.
        methods: The calls that have one request and one reply, by the proto's name.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        worker: WorkerTransport,
        settings: Settings,
        metrics: Metrics,
        authenticator: Authenticator,
    ) -> None:
        self.models = models
        self._worker = worker
        self._settings = settings
        self._metrics = metrics
        self._auth = authenticator
        self._disclosure = Disclosure(settings.allow_examples, settings.allow_thumbnails)
        self.bodies = BodyBudget(self._settings.max_buffered_bytes)
        names = ("Explain", "ScoreExamples", "EstimateRemoval", "FindFlipSet")
        limits = {"Predict": self._settings.max_predictions, **dict.fromkeys(names, self._settings.max_explanations)}
        self._limiter = Limiter({**limits, "StreamExplain": self._settings.max_streams}, metrics)
        self.methods = {
            "Predict": Method(pb.PredictRequest, Scope.PREDICT, self.predict),
            "Explain": Method(pb.ExplainRequest, Scope.EXPLAIN, self.explain),
            "ScoreExamples": Method(pb.ScoreExamplesRequest, Scope.EXPLAIN, self.score_examples),
            "EstimateRemoval": Method(pb.EstimateRemovalRequest, Scope.EXPLAIN, self.estimate_removal),
            "FindFlipSet": Method(pb.FindFlipSetRequest, Scope.EXPLAIN, self.find_flip_set),
            "ListSuspects": Method(pb.ListSuspectsRequest, Scope.EXPLAIN, self.list_suspects),
            "GetExample": Method(pb.GetExampleRequest, Scope.EXAMPLES, self.get_example),
            "GetModel": Method(pb.GetModelRequest, None, self.get_model),
        }

    async def predict(self, request: pb.PredictRequest, context: CallContext) -> pb.PredictResponse:
        """Predicts the class of one input."""
        check_rules(request)
        deployment = self._deployment(request.model, context)
        check_input(request, deployment.manifest, self._settings, "")
        return (await self._send("Predict", deployment, WorkerRequest(predict=request), context)).predict

    async def explain(self, request: pb.ExplainRequest, context: CallContext) -> pb.ExplainResponse:
        """Predicts and explains one input."""
        check_rules(request)
        deployment = self._deployment(request.model, context)
        check_explanation(request, deployment.manifest, self._settings)
        self._allow_view(request.view, context)
        reply = (await self._send("Explain", deployment, WorkerRequest(explain=request), context)).explain
        self._observe_search(request.model, reply)
        self._disclosure.clear_sources(
            request.view, (i for r in reply.results for i in (*r.proponents, *r.opponents))
        )
        return reply

    async def score_examples(
        self, request: pb.ScoreExamplesRequest, context: CallContext
    ) -> pb.ScoreExamplesResponse:
        """Scores named training examples."""
        deployment = self._query(request, context)
        self._allow_view(request.query.view, context)
        thumbnails = request.query.view == pb.VIEW_THUMBNAIL
        most = self._settings.max_thumbnails if thumbnails else self._settings.max_influences
        check_group_size(len(request.example_ids), most, "example_ids")
        reply = (await self._send("ScoreExamples", deployment, WorkerRequest(score=request), context)).score
        self._disclosure.clear_sources(request.query.view, (i for r in reply.results for i in r.scores))
        return reply

    async def estimate_removal(
        self, request: pb.EstimateRemovalRequest, context: CallContext
    ) -> pb.EstimateRemovalResponse:
        """Predicts what the removal of a group would change."""
        deployment = self._query(request, context)
        return (await self._send("EstimateRemoval", deployment, WorkerRequest(removal=request), context)).removal

    async def find_flip_set(self, request: pb.FindFlipSetRequest, context: CallContext) -> pb.FindFlipSetResponse:
        """Looks for a group whose removal flips the prediction."""
        deployment = self._query(request, context)
        self._allow_view(request.query.view, context)
        reply = (await self._send("FindFlipSet", deployment, WorkerRequest(flip=request), context)).flip
        self._disclosure.clear_sources(request.query.view, reply.members)
        return reply

    async def get_example(self, request: pb.GetExampleRequest, context: CallContext) -> pb.GetExampleResponse:
        """Looks up one training example."""
        self._disclosure.require_examples()
        check_rules(request)
        deployment = self._model(request.model).deployment
        entry = await in_thread(deployment, partial(find_example, example_id=request.example_id))
        return pb.GetExampleResponse(example=self._disclosure.example(entry, deployment.manifest))

    async def get_model(self, request: pb.GetModelRequest, context: CallContext) -> pb.GetModelResponse:
        """Describes a model and its bundle."""
        check_rules(request)
        return await in_thread(self._model(request.model).deployment, describe_model)

    async def list_suspects(self, request: pb.ListSuspectsRequest, context: CallContext) -> pb.ListSuspectsResponse:
        """Ranks training examples by self-influence."""
        check_rules(request)
        check_group_size(request.limit, self._settings.max_suspects, "limit")
        return await in_thread(self._model(request.model).deployment, partial(list_suspects, request=request))

    def permit(self, context: CallContext, authorization: str, scope: Scope | None) -> CallContext:
        """The context with what the caller may do.

        Args:
            context: Of the call.
            authorization: Value of the header of that name.
            scope: What the call needs; None for any known token.

        Raises:
            UnauthenticatedError: No bearer token, or an unknown one.
            PermissionDeniedError: The token lacks the scope.
        """
        return replace(context, scopes=self._auth.require(authorization, scope))

    def stream_slot(self) -> AbstractContextManager[None]:
        """Holds a place among the open streams; raises OverloadedError."""
        return self._limiter.slot("StreamExplain")

    def timed(self, context: CallContext) -> CallContext:
        """The context of a call without a deadline of its own: it begins now and may last as long as any."""
        return replace(context, timeout_s=self._settings.request_timeout, started=time.monotonic())

    def ready(self, name: str, field: str = "model") -> Deployment:
        """Where a model's requests go, which can answer now."""
        model = self._model(name, field)
        model.require_ready()
        return model.deployment

    def _deployment(self, name: str, context: CallContext, field: str = "model") -> Deployment:
        return context.deployment or self.ready(name, field)

    def _query(
        self,
        request: pb.ScoreExamplesRequest | pb.EstimateRemovalRequest | pb.FindFlipSetRequest,
        context: CallContext,
    ) -> Deployment:
        check_rules(request)
        deployment = self._deployment(request.query.model, context, "query.model")
        check_explanation(request.query, deployment.manifest, self._settings, "query.", lists=False)
        return deployment

    def _model(self, name: str, field: str = "model") -> ServedModel:
        model = self.models.get(name)
        if model is None:
            raise NotFoundError(
                f"model {name!r} is unknown (models: {', '.join(self.models)})", field=field, reason="MODEL_UNKNOWN"
            )
        return model

    def _allow_view(self, view: int, context: CallContext) -> None:
        if view in (pb.VIEW_UNSPECIFIED, pb.VIEW_ID_ONLY):
            return
        require_scope(context.scopes, Scope.EXAMPLES)
        self._disclosure.require_view(view)

    async def _send(
        self, method: str, deployment: Deployment, request: WorkerRequest, context: CallContext
    ) -> WorkerReply:
        check_call_cost(request, deployment.manifest, self._settings.max_call_cost)
        timeout_s = context.remaining_s(self._settings.request_timeout)
        if timeout_s <= 0:
            raise DeadlineError("the deadline had passed before the request was read")
        started = time.monotonic()
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._slot(method, context, timeout_s))
            held.enter_context(deployment.in_use())
            until_done = held.pop_all()
        return await self._worker.send(deployment, request, started + timeout_s - time.monotonic(), until_done)

    @asynccontextmanager
    async def _slot(self, method: str, context: CallContext, wait_s: float) -> AsyncIterator[None]:
        if context.admitted is None:
            with self._limiter.slot(method):
                yield
            return
        async with self._limiter.wait_for_slot(method, wait_s):
            context.admitted()
            yield

    def _observe_search(self, model: str, reply: pb.ExplainResponse) -> None:
        for timing in reply.timings:
            if timing.stage == "search":
                self._metrics.search.labels(model).observe(timing.duration.ToNanoseconds() / 1e9)
