"""The calls of the service, whatever the transport: permission, validation, one question to a worker.

Both doors translate to these calls and from their errors; neither knows anything that the other does not.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from google.protobuf.struct_pb2 import Struct

from proponent.errors import DeadlineError, NotFoundError
from proponent.gateway.auth import Authenticator, Scope
from proponent.gateway.deployment import Deployment
from proponent.gateway.disclosure import Disclosure
from proponent.gateway.limits.body_budget import BodyBudget
from proponent.gateway.limits.call_cost import check_call_cost
from proponent.gateway.limits.limiter import Limiter
from proponent.gateway.lookups import find_example, in_thread, list_suspects
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_explanation, check_group_size, check_input, check_rules
from proponent.index.bundle import Manifest
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest


class Asks(Protocol):
    """Anything that answers a WorkerRequest."""

    async def ask(
        self, deployment: Deployment, request: WorkerRequest, timeout_s: float, held: AsyncExitStack
    ) -> WorkerReply:
        """One request, one reply of the same kind; ``held`` is closed when that work is done."""


@dataclass(frozen=True)
class Call:
    """What a transport knows of a call beside its message.

    Attributes:
        request_id: Follows the call through logs and replies.
        authorization: Value of the header of that name.
        timeout_s: Time that the caller gives it, from ``started``; None where there is no deadline.
        deployment: Makes one bundle answer every part of a call; else each part goes where requests go by then.
        placed: Of a part of a larger call, which waits for its slot instead of being refused: called when it has it.
        started: When the call began, by the monotonic clock.
    """

    request_id: str = ""
    authorization: str = ""
    timeout_s: float | None = None
    deployment: Deployment | None = None
    placed: Callable[[], None] | None = None
    started: float = field(default_factory=time.monotonic)

    def remaining_s(self, longest: float) -> float:
        """Seconds left until the deadline, at most ``longest``."""
        left = longest if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()
        return min(left, longest)


class ExplanationCalls:
    """The public calls, one method each; all raise ProponentError and nothing else on bad input.

    Attributes:
        models: What is served, by name.
        bodies: The memory for request bodies, which both doors share.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        worker: Asks,
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

    async def predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        """Predicts the class of one input."""
        self._auth.require(call.authorization, Scope.PREDICT)
        check_rules(request)
        deployment = self._deployment(request.model, call)
        check_input(request, deployment.manifest, self._settings, "")
        return (await self._ask("Predict", deployment, WorkerRequest(predict=request), call)).predict

    async def explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        """Predicts and explains one input."""
        self._auth.require(call.authorization, Scope.EXPLAIN)
        check_rules(request)
        deployment = self._deployment(request.model, call)
        check_explanation(request, deployment.manifest, self._settings)
        self._allow_view(request.view, call)
        reply = (await self._ask("Explain", deployment, WorkerRequest(explain=request), call)).explain
        self._observe_search(request.model, reply)
        self._disclosure.clear_sources(
            request.view, (i for r in reply.results for i in (*r.proponents, *r.opponents))
        )
        return reply

    async def score_examples(self, request: pb.ScoreExamplesRequest, call: Call) -> pb.ScoreExamplesResponse:
        """Scores named training examples."""
        deployment = self._query(request, call)
        self._allow_view(request.query.view, call)
        thumbnails = request.query.view == pb.VIEW_THUMBNAIL
        most = self._settings.max_thumbnails if thumbnails else self._settings.max_influences
        check_group_size(len(request.example_ids), most, "example_ids")
        reply = (await self._ask("ScoreExamples", deployment, WorkerRequest(score=request), call)).score
        self._disclosure.clear_sources(request.query.view, (i for r in reply.results for i in r.scores))
        return reply

    async def estimate_removal(self, request: pb.EstimateRemovalRequest, call: Call) -> pb.EstimateRemovalResponse:
        """Predicts what the removal of a group would change."""
        deployment = self._query(request, call)
        return (await self._ask("EstimateRemoval", deployment, WorkerRequest(removal=request), call)).removal

    async def find_flip_set(self, request: pb.FindFlipSetRequest, call: Call) -> pb.FindFlipSetResponse:
        """Looks for a group whose removal flips the prediction."""
        deployment = self._query(request, call)
        self._allow_view(request.query.view, call)
        reply = (await self._ask("FindFlipSet", deployment, WorkerRequest(flip=request), call)).flip
        self._disclosure.clear_sources(request.query.view, reply.members)
        return reply

    async def get_example(self, request: pb.GetExampleRequest, call: Call) -> pb.GetExampleResponse:
        """Looks up one training example."""
        self._auth.require(call.authorization, Scope.EXAMPLES)
        self._disclosure.require_examples()
        check_rules(request)
        deployment = self._model(request.model).deployment
        entry = await in_thread(deployment, partial(find_example, example_id=request.example_id))
        return pb.GetExampleResponse(example=self._disclosure.example(entry, deployment.manifest))

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Describes a model and its bundle."""
        self._auth.require(call.authorization, None)
        check_rules(request)
        return describe(self._model(request.model).deployment.manifest)

    async def list_suspects(self, request: pb.ListSuspectsRequest, call: Call) -> pb.ListSuspectsResponse:
        """Ranks training examples by self-influence."""
        self._auth.require(call.authorization, Scope.EXPLAIN)
        check_rules(request)
        check_group_size(request.limit, self._settings.max_suspects, "limit")
        return await in_thread(self._model(request.model).deployment, partial(list_suspects, request=request))

    def allow(self, scope: Scope | None, call: Call) -> None:
        """Checks a permission before a call of many parts; scope None asks for any known token."""
        self._auth.require(call.authorization, scope)

    def stream_slot(self) -> AbstractContextManager[None]:
        """Holds a place among the open streams; raises OverloadedError."""
        return self._limiter.slot("StreamExplain")

    def timed(self, call: Call) -> Call:
        """A call without a deadline of its own, which begins now and may last as long as any."""
        return replace(call, timeout_s=self._settings.request_timeout, started=time.monotonic())

    def ready(self, name: str, field: str = "model") -> Deployment:
        """Where a model's requests go, which can answer now."""
        model = self._model(name, field)
        model.require_ready()
        return model.deployment

    def _deployment(self, name: str, call: Call, field: str = "model") -> Deployment:
        return call.deployment or self.ready(name, field)

    def _query(
        self, request: pb.ScoreExamplesRequest | pb.EstimateRemovalRequest | pb.FindFlipSetRequest, call: Call
    ) -> Deployment:
        self._auth.require(call.authorization, Scope.EXPLAIN)
        check_rules(request)
        deployment = self._deployment(request.query.model, call, "query.model")
        check_explanation(request.query, deployment.manifest, self._settings, "query.", lists=False)
        return deployment

    def _model(self, name: str, field: str = "model") -> ServedModel:
        model = self.models.get(name)
        if model is None:
            raise NotFoundError(
                f"model {name!r} is unknown (models: {', '.join(self.models)})", field=field, reason="MODEL_UNKNOWN"
            )
        return model

    def _allow_view(self, view: int, call: Call) -> None:
        if view in (pb.VIEW_UNSPECIFIED, pb.VIEW_ID_ONLY):
            return
        self._auth.require(call.authorization, Scope.EXAMPLES)
        self._disclosure.require_view(view)

    async def _ask(self, method: str, deployment: Deployment, request: WorkerRequest, call: Call) -> WorkerReply:
        check_call_cost(request, deployment.manifest, self._settings.max_call_cost)
        timeout_s = call.remaining_s(self._settings.request_timeout)
        if timeout_s <= 0:
            raise DeadlineError("the deadline had passed before the request was read")
        started = time.monotonic()
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._slot(method, call, timeout_s))
            held.enter_context(deployment.in_use())
            until_done = held.pop_all()
        return await self._worker.ask(deployment, request, started + timeout_s - time.monotonic(), until_done)

    @asynccontextmanager
    async def _slot(self, method: str, call: Call, wait_s: float) -> AsyncIterator[None]:
        if call.placed is None:
            with self._limiter.slot(method):
                yield
            return
        async with self._limiter.turn(method, wait_s):
            call.placed()
            yield

    def _observe_search(self, model: str, reply: pb.ExplainResponse) -> None:
        for timing in reply.timings:
            if timing.stage == "search":
                self._metrics.search.labels(model).observe(timing.duration.ToNanoseconds() / 1e9)


def describe(manifest: Manifest) -> pb.GetModelResponse:
    """What a manifest says of a model."""
    audit = Struct()
    audit.update(manifest.audit)
    return pb.GetModelResponse(
        model=manifest.model,
        bundle_digest=manifest.digest,
        weights_sha256=manifest.weights_sha256,
        curvature=manifest.curvature,
        damping=manifest.damping,
        damping_relative=manifest.damping_relative,
        embedding_size=manifest.embedding_size,
        train_size=manifest.train_size,
        class_names=manifest.class_names,
        input_shape=manifest.input_shape,
        kept_energy=manifest.kept_energy,
        audit=audit,
        loss=manifest.loss,
        created=manifest.created,
        uncovered_share=manifest.uncovered_share,
        uncovered=sorted(manifest.uncovered),
        image_size=manifest.image_size,
        image_mode=manifest.image_mode,
        frozen_share=manifest.frozen_share,
        frozen=sorted(manifest.frozen),
    )
