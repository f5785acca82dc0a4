"""What stands behind the paths: inference, models and their examples, operation.

The docstrings of endpoints are their descriptions in OpenAPI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from proponent.errors import InvalidInputError, NotFoundError, ProponentError
from proponent.gateway.auth import Scope
from proponent.gateway.call import CallContext, Method
from proponent.gateway.concurrency import Admitted, map_in_order
from proponent.gateway.error_mapping import as_proponent_error, problem
from proponent.gateway.http.body import BodyReader
from proponent.gateway.http.deadline import timeout_of
from proponent.gateway.http.docs import docs_response
from proponent.gateway.http.instances import Instance
from proponent.gateway.http.problem import problem_response
from proponent.gateway.http.protojson import parse_parameters
from proponent.gateway.http.reply import json_response, to_json
from proponent.gateway.metrics import Metrics
from proponent.gateway.prediction_when_late import lane_needed
from proponent.gateway.served_model import Readiness
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_replies
from proponent.v1 import explanation_pb2 as pb

T = TypeVar("T")


@dataclass(frozen=True)
class InferenceEndpoints:
    """A body in, one call for each of its instances or one in all, a reply of JSON out."""

    calls: ExplanationCalls
    settings: Settings
    bodies: BodyReader
    recorded: Metrics

    async def predict(self, request: Request, model: str) -> Response:
        """Predict the class of each instance."""
        replies, digest = await self._for_each(request, model, "Predict")
        return json_response({"predictions": _predictions(replies), "bundle_digest": digest})

    async def explain(self, request: Request, model: str) -> Response:
        """Predict each instance and explain it by training examples."""
        replies, digest = await self._for_each(request, model, "Explain")
        found = {"predictions": _predictions(replies), "explanations": replies}
        return json_response({**found, "bundle_digest": digest})

    async def score_examples(self, request: Request, model: str) -> Response:
        """Score named training examples for one input."""
        return await self._for_one(request, model, "ScoreExamples")

    async def highlight_examples(self, request: Request, model: str) -> Response:
        """Tell which words of a text, and of named training texts, carry the influence."""
        return await self._for_one(request, model, "HighlightExamples")

    async def estimate_removal(self, request: Request, model: str) -> Response:
        """Predict what the removal of a group of training examples would change."""
        return await self._for_one(request, model, "EstimateRemoval")

    async def find_flip_set(self, request: Request, model: str) -> Response:
        """Look for a group of training examples whose removal flips the prediction."""
        return await self._for_one(request, model, "FindFlipSet")

    async def _for_one(self, request: Request, model: str, name: str) -> Response:
        """A call about one input and a group of examples: the input's fields stand below ``query``."""
        method = self.calls.methods[name]
        context = permitted(self.calls, request, method.scope)
        with self.calls.bodies.reservation(context.caller) as reservation:
            message = await self.bodies.message(request, reservation, method.request, model)
            return json_response(await while_connected(request, method.run(message, self.calls.timed(context))))

    async def _for_each(self, request: Request, model: str, name: str) -> tuple[list[Any], str]:
        """A reply, or the problem of an error, for each instance, all of the bundle whose digest is returned.

        A bad instance fails only itself, unless it is the only one.
        """
        method = self.calls.methods[name]
        context = permitted(self.calls, request, method.scope)
        with self.calls.bodies.reservation(context.caller) as reservation:
            instances = await self.bodies.instances(request, reservation, method.request, model)
            messages = [each.message for each in instances if isinstance(each.message, pb.ExplainRequest)]
            deployment = self.calls.ready(model, lane_needed(method.lane, messages) if messages else method.lane)
            if len(instances) > 1:
                check_replies(messages, deployment.manifest, self.settings)
            context = replace(self.calls.timed(context), deployment=deployment)
            with deployment.in_use():
                results = await while_connected(request, self._run_all(method, instances, context))
        if len(results) == 1 and isinstance(results[0], ProponentError):
            raise results[0]
        for each in results:
            if isinstance(each, ProponentError):
                self.recorded.error("http", each.reason)
        replies = [{"error": problem(each)} if isinstance(each, ProponentError) else each for each in results]
        return replies, deployment.manifest.digest

    async def _run_all(self, method: Method, instances: Sequence[Instance], context: CallContext) -> list[Any]:
        """One reply or error for each instance, in order."""

        async def run(position: int, admitted: Admitted | None) -> Any:
            own = context if admitted is None else replace(context, admitted=admitted)
            return await _run(method, instances[position], own)

        return await map_in_order(len(instances), run, self.settings.max_parts)


@dataclass(frozen=True)
class ModelEndpoints:
    """Models, their training examples and their suspects: what is answered without a worker."""

    calls: ExplanationCalls

    async def list_models(self, request: Request) -> Response:
        """List the names of the models, whether each is ready, and for those that are not, why."""
        models = (await self._reply(request, "ListModels", pb.ListModelsRequest())).models
        return JSONResponse(
            {
                "models": [each.name for each in models],
                "ready": {each.name: each.ready for each in models},
                "unavailable": {
                    each.name: {"reason": each.unavailable_reason, "detail": each.unavailable_detail}
                    for each in models
                    if not each.ready
                },
            }
        )

    async def get_model(self, request: Request, model: str) -> Response:
        """Describe a model and its bundle."""
        reply = await self._reply(request, "GetModel", pb.GetModelRequest(model=model))
        return JSONResponse({"name": model, "ready": not reply.unavailable_reason, **to_json(reply)})

    async def list_suspects(self, request: Request, model: str) -> Response:
        """Rank training examples by self-influence: suspects of a wrong label first."""
        return await self._list(request, "ListSuspects", pb.ListSuspectsRequest(model=model))

    async def list_examples(self, request: Request, model: str) -> Response:
        """List training examples, filtered and ordered, page by page (needs --allow-examples)."""
        return await self._list(request, "ListExamples", pb.ListExamplesRequest(model=model))

    async def summarize_examples(self, request: Request, model: str) -> Response:
        """Count training examples by class and by self-influence."""
        return await self._list(request, "SummarizeExamples", pb.SummarizeExamplesRequest(model=model))

    async def list_frequent_examples(self, request: Request, model: str) -> Response:
        """List the training examples that stand in most lists of the bundle's samples."""
        return await self._list(request, "ListFrequentExamples", pb.ListFrequentExamplesRequest(model=model))

    async def list_samples(self, request: Request, model: str) -> Response:
        """List the held-out inputs that the bundle keeps (needs --allow-samples)."""
        return await self._list(request, "ListSamples", pb.ListSamplesRequest(model=model))

    async def get_sample(self, request: Request, model: str, sample_id: str) -> Response:
        """Return one held-out input, whole (needs --allow-samples)."""
        if not sample_id:
            raise NotFoundError("no sample id in the path", field="sample_id", reason="SAMPLE_UNKNOWN")
        return await self._list(request, "GetSample", pb.GetSampleRequest(model=model, sample_id=sample_id))

    async def list_bundles(self, request: Request, model: str) -> Response:
        """List the bundles of the model that lie in the store."""
        return await self._list(request, "ListBundles", pb.ListBundlesRequest(model=model))

    async def diff_bundles(self, request: Request, model: str) -> Response:
        """Compare the lists that two bundles give for the samples that both keep."""
        return await self._list(request, "DiffBundles", pb.DiffBundlesRequest(model=model))

    async def get_model_example(self, request: Request, model: str, example_id: str) -> Response:
        """Return one training example."""
        if not example_id:
            raise NotFoundError("no example id in the path", field="example_id", reason="EXAMPLE_UNKNOWN")
        message = pb.GetExampleRequest(model=model, example_id=example_id)
        return json_response((await self._reply(request, "GetExample", message)).example)

    async def get_example(self, request: Request, example_id: str, model: str = "") -> Response:
        """Return one training example (query: model, needed when several are served)."""
        return await self.get_model_example(request, model or self._only_model(), example_id)

    async def _list(self, request: Request, name: str, message: Message) -> Response:
        """The reply to a message that the query's parameters complete."""
        method = self.calls.methods[name]
        context = permitted(self.calls, request, method.scope)
        parse_parameters(request.query_params.multi_items(), message)
        return json_response(await method.run(message, context))

    async def _reply(self, request: Request, name: str, message: Message) -> Any:
        method = self.calls.methods[name]
        return await method.run(message, permitted(self.calls, request, method.scope))

    def _only_model(self) -> str:
        names = list(self.calls.models)
        if len(names) != 1:
            message = f"several models are served ({', '.join(names)}), expected ?model=NAME"
            raise InvalidInputError(message, field="model")
        return names[0]


@dataclass(frozen=True)
class OperationEndpoints:
    """For whoever runs the gateway: is it alive, may it be sent traffic, what has it measured."""

    calls: ExplanationCalls
    recorded: Metrics
    readiness: Readiness

    async def healthz(self) -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    async def readyz(self) -> Response:
        """Whether all models have been tried and one at least can answer; ``/v1/models/{model}:ready`` says which."""
        error = self.readiness.error()
        return JSONResponse({"status": "ready"}) if error is None else problem_response(error, status=503)

    async def model_ready(self, model: str) -> Response:
        """Whether a worker answers for the model; 503 says why none does."""
        error = self.readiness.error_of(model)
        ready = {"name": model, "ready": True}
        return JSONResponse(ready) if error is None else problem_response(error, status=503)

    async def docs(self, request: Request) -> Response:
        """Describe the paths for people."""
        return docs_response(request.app.openapi())

    async def metrics(self, request: Request) -> Response:
        """Metrics in Prometheus's text format, or in OpenMetrics, with exemplars, where that is accepted.

        Where callers need a token, it must have the scope admin.
        """
        permitted(self.calls, request, Scope.ADMIN)
        accept = request.headers.get("accept", "")
        text, content_type = await asyncio.to_thread(self.recorded.exposition, accept)
        return Response(text, media_type=content_type, headers={"vary": "accept"})


def permitted(calls: ExplanationCalls, request: Request, scope: Scope | None) -> CallContext:
    """The context of a call that the request's token allows, which ends in the time that its caller gives.

    Raises:
        PermissionDeniedError: The token does not allow it.
        InvalidInputError: The time is no number of seconds.
    """
    timeout_s = timeout_of(request.headers)
    context = CallContext(request.state.request_id, timeout_s=timeout_s, span=request.state.span)
    return calls.permit(context, request.headers.get("authorization", ""), scope)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled when the caller leaves; the body must have been read before.

    Raises:
        ClientDisconnect: The caller left.
    """
    working, leaving, over = asyncio.current_task(), asyncio.create_task(_left(request)), False
    assert working is not None

    def leave(task: asyncio.Task[None]) -> None:
        if not (over or task.cancelled()):
            working.cancel()

    leaving.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if leaving.done() and not working.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        over = True
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _run(method: Method, instance: Instance, context: CallContext) -> Any:
    """The reply to one instance, or an error that names the field as the caller wrote it."""
    if isinstance(instance.message, ProponentError):
        return instance.located(instance.message)
    try:
        return await method.run(instance.message, context)
    except Exception as error:
        return instance.located(as_proponent_error(error, context.request_id))


def _predictions(replies: Sequence[Any]) -> list[Any]:
    return [reply if isinstance(reply, dict) else reply.prediction for reply in replies]
