"""The calls of the service, whatever the transport: permission, validation, one request to a worker.

Both transports translate to these calls and from their errors; neither knows anything that the other does not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from proponent.errors import DeadlineError
from proponent.gateway.auth import Authenticator, Scope, require_scope
from proponent.gateway.call import CallContext, Method, Run
from proponent.gateway.deployment import Deployment
from proponent.gateway.disclosure import count_examples
from proponent.gateway.error_mapping import reason_of
from proponent.gateway.lane import Lane
from proponent.gateway.limits.admission import Admission, Held
from proponent.gateway.limits.body_budget import BodyBudget
from proponent.gateway.limits.call_cost import check_call_cost
from proponent.gateway.lookup_calls import LookupCalls
from proponent.gateway.metrics import Metrics, exemplar
from proponent.gateway.prediction_when_late import (
    LATE,
    explain_or_predict,
    explanation_time,
    lane_needed,
    prediction_alone,
    prediction_of,
)
from proponent.gateway.privacy.gate import DisclosureGate
from proponent.gateway.served_model import ServedModel, stopping_error
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_explanation, check_group_size, check_input, check_rules
from proponent.input_checks import check_weighable
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest


class WorkerTransport(Protocol):
    """Anything that brings a WorkerRequest to a worker and its reply back."""

    async def send(self, deployment: Deployment, request: WorkerRequest, timeout_s: float, held: Held) -> WorkerReply:
        """One request, one reply of the same kind; ``held`` is closed when that work is done."""


class ExplanationCalls(LookupCalls):
    """The public calls, one method each; all raise ProponentError and nothing else on bad input.

    Transports ask for permission before they read a message; a call is made with the context that ``permit`` returns.

    Attributes:
        bodies: The memory for request bodies, which both transports share.
        methods: The calls that have one request and one reply, by the proto's name, behind the gate of disclosure.
        stopping: Whether calls, and items of streams, that come from now on are refused.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        worker: WorkerTransport,
        settings: Settings,
        metrics: Metrics,
        authenticator: Authenticator,
        gate: DisclosureGate,
    ) -> None:
        super().__init__(models, settings)
        self._worker = worker
        self._metrics = metrics
        self._auth = authenticator
        self.stopping = False
        self.bodies = BodyBudget(self.settings.max_buffered_bytes)
        self._admission = Admission(self.settings, metrics)
        numbers = DisclosureLevel.ROUNDED
        methods = {
            "Predict": Method(pb.PredictRequest, Scope.PREDICT, self.predict, lane=Lane.PREDICTIONS),
            "Explain": Method(pb.ExplainRequest, Scope.EXPLAIN, self.explain),
            "ScoreExamples": Method(pb.ScoreExamplesRequest, Scope.EXPLAIN, self.score_examples, numbers),
            "EstimateRemoval": Method(pb.EstimateRemovalRequest, Scope.EXPLAIN, self.estimate_removal, numbers),
            "HighlightExamples": Method(pb.HighlightExamplesRequest, Scope.EXPLAIN, self.highlight_examples, numbers),
            "FindFlipSet": Method(pb.FindFlipSetRequest, Scope.EXPLAIN, self.find_flip_set),
            **self.lookups,
        }
        self._gate = gate
        guarded = gate.guarded(methods)
        self.methods = {name: replace(method, run=self._counted(method.run)) for name, method in guarded.items()}
        metrics.body_limit.set(self.settings.max_buffered_bytes)
        metrics.body_bytes.set_function(lambda: self.bodies.held)

    def _counted(self, run: Run) -> Run:
        async def counted(request: Any, context: CallContext) -> Any:
            reply = await run(request, context)
            if context.caller.level > DisclosureLevel.LABELS and (examples := count_examples(reply)):
                model = request.query.model if hasattr(request, "query") else request.model
                if model in self.models:  # else it was the last call of a model that is gone
                    self._metrics.examples_disclosed(model, examples)
            return reply

        return counted

    async def predict(self, request: pb.PredictRequest, context: CallContext) -> pb.PredictResponse:
        """Predicts the class of one input."""
        check_rules(request)
        deployment = self._deployment(request.model, context, Lane.PREDICTIONS)
        check_input(request, deployment.manifest, self.settings, "")
        return (await self._send("Predict", deployment, WorkerRequest(predict=request), context)).predict

    async def explain(self, request: pb.ExplainRequest, context: CallContext) -> pb.ExplainResponse:
        """Predicts and explains one input."""
        check_rules(request)
        deployment = self._deployment(request.model, context, lane_needed(Lane.EXPLANATIONS, [request]))
        check_explanation(request, deployment.manifest, self.settings)
        self.allow_view(request.view, context)
        self.allow_exclusion(request.filter, context)
        with deployment.in_use():
            reply = await self._explanation(request, deployment, context)
        self.disclosure.clear_sources(request.view, (i for r in reply.results for i in (*r.proponents, *r.opponents)))
        return reply

    async def score_examples(
        self, request: pb.ScoreExamplesRequest, context: CallContext
    ) -> pb.ScoreExamplesResponse:
        """Scores named training examples."""
        deployment = self._query(request, context)
        self.allow_view(request.query.view, context)
        thumbnails = request.query.view == pb.VIEW_THUMBNAIL
        most = self.settings.max_thumbnails if thumbnails else self.settings.max_influences
        check_group_size(len(request.example_ids), most, "example_ids")
        reply = (await self._send("ScoreExamples", deployment, WorkerRequest(score=request), context)).score
        self.disclosure.clear_sources(request.query.view, (i for r in reply.results for i in r.scores))
        return reply

    async def highlight_examples(
        self, request: pb.HighlightExamplesRequest, context: CallContext
    ) -> pb.HighlightExamplesResponse:
        """Weighs the words of a text and of training texts."""
        deployment = self._query(request, context)
        check_weighable(request.query.WhichOneof("input") or "input", "query.")
        self.allow_view(request.query.view, context)
        if request.query.view == pb.VIEW_THUMBNAIL:
            check_group_size(len(request.example_ids), self.settings.max_thumbnails, "example_ids")
        asked = WorkerRequest(highlight=request)
        return (await self._send("HighlightExamples", deployment, asked, context)).highlight

    async def estimate_removal(
        self, request: pb.EstimateRemovalRequest, context: CallContext
    ) -> pb.EstimateRemovalResponse:
        """Predicts what the removal of a group would change."""
        deployment = self._query(request, context)
        return (await self._send("EstimateRemoval", deployment, WorkerRequest(removal=request), context)).removal

    async def find_flip_set(self, request: pb.FindFlipSetRequest, context: CallContext) -> pb.FindFlipSetResponse:
        """Looks for a group whose removal flips the prediction."""
        deployment = self._query(request, context)
        self.allow_view(request.query.view, context)
        reply = (await self._send("FindFlipSet", deployment, WorkerRequest(flip=request), context)).flip
        self.disclosure.clear_sources(request.query.view, reply.members)
        return reply

    def permit(self, context: CallContext, authorization: str, scope: Scope | None) -> CallContext:
        """The context with who calls.

        Args:
            context: Of the call.
            authorization: Value of the header of that name.
            scope: What the call needs; None for any known token.

        Raises:
            UnauthenticatedError: No bearer token, or an unknown one.
            PermissionDeniedError: The token lacks the scope.
            QuotaError: The caller makes too many calls a second.
            UnavailableError: The server is stopping.
        """
        self._require_going_on()
        caller = self._auth.require(authorization, scope)
        self._gate.rates.take(caller)
        return replace(context, caller=caller)

    def confirm(self, context: CallContext, scope: Scope) -> CallContext:
        """The context of one more part of a call that lasts, by what its token allows now.

        Raises:
            UnauthenticatedError: Its token is gone.
            PermissionDeniedError: It lacks the scope by now.
            UnavailableError: The server is stopping.
        """
        self._require_going_on()
        caller = self._auth.confirm(context.caller)
        require_scope(caller.scopes, scope)
        return replace(context, caller=caller)

    def _require_going_on(self) -> None:
        if self.stopping:
            raise stopping_error()

    def forget(self, model: str) -> None:
        """Frees what is kept for a model that is served no more."""
        self._admission.forget(model)

    def stream_slot(self, context: CallContext) -> AbstractContextManager[None]:
        """Holds a place among the open streams; raises OverloadedError."""
        return self._admission.stream(context.caller)

    def timed(self, context: CallContext) -> CallContext:
        """The context of a call; one without a deadline of its own begins now and may last as long as any."""
        if context.timeout_s is not None:
            return context
        return replace(context, timeout_s=self.settings.request_timeout, started=time.monotonic())

    def ready(self, name: str, lane: Lane, field: str = "model") -> Deployment:
        """Where a model's requests go, which can answer those of a lane now."""
        model = self.model_named(name, field)
        model.require_ready(lane)
        return model.deployment

    def _deployment(
        self, name: str, context: CallContext, lane: Lane = Lane.EXPLANATIONS, field: str = "model"
    ) -> Deployment:
        return context.deployment or self.ready(name, lane, field)

    def _query(
        self,
        request: pb.ScoreExamplesRequest
        | pb.HighlightExamplesRequest
        | pb.EstimateRemovalRequest
        | pb.FindFlipSetRequest,
        context: CallContext,
    ) -> Deployment:
        check_rules(request)
        deployment = self._deployment(request.query.model, context, field="query.model")
        check_explanation(request.query, deployment.manifest, self.settings, "query.", lists=False)
        return deployment

    async def _send(
        self, method: str, deployment: Deployment, request: WorkerRequest, context: CallContext
    ) -> WorkerReply:
        check_call_cost(request, deployment.manifest, self.settings.of(deployment.model).max_call_cost)
        timeout_s = context.remaining_s(self.settings.request_timeout)
        if timeout_s <= 0:
            raise DeadlineError("the deadline had passed before the request was read")
        ends = time.monotonic() + timeout_s
        deployment.hold()  # from now on: its model may be switched, or removed, while the call waits in line
        try:
            held = await self._admitted(method, deployment, Lane.of(request), context, timeout_s)
            return await self._ask_worker(method, deployment, request, context, ends - time.monotonic(), held)
        finally:
            deployment.release()

    async def _ask_worker(
        self,
        method: str,
        deployment: Deployment,
        request: WorkerRequest,
        context: CallContext,
        timeout_s: float,
        held: Held,
    ) -> WorkerReply:
        """One request to a worker, measured and traced, whose log lines name the call."""
        attributes = {"proponent.model": deployment.model, "proponent.bundle": deployment.manifest.digest}
        sent_ns, error_type = time.monotonic_ns(), ""
        request.request_id, request.sent_ns = context.request_id, sent_ns
        try:
            with context.span.request(f"worker {method}", attributes) as span:
                request.traceparent = span.traceparent
                reply = await self._worker.send(deployment, request, timeout_s, held)
                span.add_stages(reply.stages)
        except BaseException as error:
            error_type = reason_of(error)
            raise
        finally:
            found_by, seconds = exemplar(context.request_id, context.span.trace_id), time.monotonic_ns() - sent_ns
            self._metrics.worker_ended(deployment.model, method, error_type, seconds / 1e9, found_by)
        self._metrics.worker_answered(deployment.model, reply.stages, reply.batch_size)
        return reply

    async def _admitted(
        self, method: str, deployment: Deployment, lane: Lane, context: CallContext, wait_s: float
    ) -> Held:
        """What is held for a call that may go to the workers now."""
        part = context.admitted is not None
        slot = await self._admission.of(deployment.model, lane).slot(context.caller.name, wait_s, part=part)
        if context.admitted is not None:
            context.admitted()
        held, in_flight = Held(slot.observe), self._metrics.in_flight[(method,)]
        in_flight.inc()
        deployment.hold()
        for end in (slot.release, in_flight.dec, deployment.release):
            held.callback(end)
        return held

    async def _explanation(
        self, request: pb.ExplainRequest, deployment: Deployment, context: CallContext
    ) -> pb.ExplainResponse:
        async def explain(context: CallContext) -> pb.ExplainResponse:
            return (await self._send("Explain", deployment, WorkerRequest(explain=request), context)).explain

        async def explain_if_able(context: CallContext) -> pb.ExplainResponse:
            if (model := self.models.get(request.model)) is not None:  # else it went after it was called
                model.require_ready(Lane.EXPLANATIONS)
            return await explain(context)

        async def predict() -> pb.PredictResponse:
            asked = WorkerRequest(predict=prediction_of(request))
            return (await self._send("Predict", deployment, asked, replace(context, admitted=None))).predict

        if request.deadline_policy != LATE:
            return await explain(context)
        timeout_s = context.remaining_s(self.settings.request_timeout)
        in_time = replace(context, timeout_s=explanation_time(timeout_s), started=time.monotonic())
        found = await explain_or_predict(explain_if_able(in_time), predict, timeout_s)
        return (
            found if isinstance(found, pb.ExplainResponse) else prediction_alone(request, *found, deployment.manifest)
        )
