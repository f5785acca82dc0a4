"""The HTTP door: KServe v1 bodies, problem+json errors, health, figures and OpenAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from proponent.errors import InvalidInputError, NotFoundError, ProponentError
from proponent.gateway.auth import Scope
from proponent.gateway.error_mapping import as_proponent_error, problem
from proponent.gateway.http.body import BodyReader
from proponent.gateway.http.disconnect import while_connected
from proponent.gateway.http.docs import docs_response
from proponent.gateway.http.middleware import RequestLog
from proponent.gateway.http.openapi import EXPLAIN_BODY, PREDICT_BODY, PROBLEMS, QUERY_BODY
from proponent.gateway.http.problem import answer_error, problem_response
from proponent.gateway.http.protojson import parse_message
from proponent.gateway.http.queries import Asked, Query
from proponent.gateway.http.reply import json_response, to_json
from proponent.gateway.metrics import Metrics
from proponent.gateway.parts import Placed, answer_parts
from proponent.gateway.readiness import Readiness
from proponent.gateway.service import Call, ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_replies
from proponent.index.bundle import Manifest
from proponent.v1 import explanation_pb2 as pb

Check = Callable[[Sequence[Query], Manifest], None]
Ask = Callable[[Query, Call], Awaitable[Any]]


def create_app(calls: ExplanationCalls, metrics: Metrics, readiness: Readiness, settings: Settings) -> FastAPI:
    """The application with all its routes."""
    summary = "Predictions and the training examples behind them."
    app = FastAPI(title="proponent", summary=summary, docs_url=None, redoc_url=None)
    app.add_exception_handler(ProponentError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_middleware(RequestLog, metrics=metrics)
    doors = HttpDoors(calls, settings, BodyReader(settings))
    _add_operation_routes(app, metrics, readiness)
    _add_model_routes(app, doors)
    _add_example_routes(app, doors)
    return app


@dataclass(frozen=True)
class HttpDoors:
    """Translates requests to calls."""

    calls: ExplanationCalls
    settings: Settings
    bodies: BodyReader

    async def predict(self, request: Request, model: str) -> Response:
        """Predictions for one or several instances."""

        async def ask(query: Query, call: Call) -> Any:
            return await self.calls.predict(query.read(pb.PredictRequest()), call)

        answers, digest = await self._answers(request, Asked("PredictRequest", model), Scope.PREDICT, ask)
        return json_response({"predictions": _predictions(answers), "bundle_digest": digest})

    async def explain(self, request: Request, model: str) -> Response:
        """Predictions and explanations for one or several instances."""

        async def ask(query: Query, call: Call) -> Any:
            return await self.calls.explain(query.read(pb.ExplainRequest()), call)

        asked = Asked("ExplainRequest", model)
        answers, digest = await self._answers(request, asked, Scope.EXPLAIN, ask, self._check_replies)
        found = {"predictions": _predictions(answers), "explanations": answers}
        return json_response({**found, "bundle_digest": digest})

    async def query(
        self, request: Request, model: str, message: Any, run: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Response:
        """A call about one input and a group of examples: the input's fields stand below ``query``."""
        call = _call_of(request)
        self.calls.allow(Scope.EXPLAIN, call)
        with self.calls.bodies.share() as share:
            message.MergeFromString(await self.bodies.message(request, share, Asked(type(message).__name__, model)))
            return json_response(await while_connected(request, run(message, self.calls.timed(call))))

    def _check_replies(self, queries: Sequence[Query], manifest: Manifest) -> None:
        read = [q.read(pb.ExplainRequest()) for q in queries if not isinstance(q.message, ProponentError)]
        check_replies(read, manifest, self.settings)

    async def _answers(
        self, request: Request, asked: Asked, scope: Scope, ask: Ask, check: Check | None = None
    ) -> tuple[list[Any], str]:
        """A message, or the problem of an error, for each instance, all of the bundle whose digest is returned.

        A bad instance fails only itself, unless it is the only one.
        """
        call = _call_of(request)
        self.calls.allow(scope, call)
        self.calls.ready(asked.model)
        with self.calls.bodies.share() as share:
            queries = await self.bodies.queries(request, share, asked)
            deployment = self.calls.ready(asked.model)
            if check is not None and len(queries) > 1:
                check(queries, deployment.manifest)
            call = replace(self.calls.timed(call), deployment=deployment)
            with deployment.in_use():
                results = await while_connected(request, self._ask_all(queries, ask, call))
        if len(results) == 1 and isinstance(results[0], ProponentError):
            raise results[0]
        return [
            {"error": problem(r)} if isinstance(r, ProponentError) else r for r in results
        ], deployment.manifest.digest

    async def _ask_all(self, queries: Sequence[Query], ask: Ask, call: Call) -> list[Any]:
        """One answer or error for each query, in order; one that is alone does not wait for its slot."""

        async def one(position: int, placed: Placed) -> tuple[int, Any]:
            part = replace(call, placed=placed if len(queries) > 1 else None)
            try:
                return position, await ask(queries[position], part)
            except Exception as error:
                return position, queries[position].located(as_proponent_error(error, call.request_id))

        answers = answer_parts(_each(range(len(queries))), one, self.settings.max_parts)
        return [answer for _, answer in sorted([pair async for pair in answers], key=itemgetter(0))]


async def _each(positions: Iterable[int]) -> AsyncIterator[int]:
    for position in positions:
        yield position


def _add_model_routes(app: FastAPI, doors: HttpDoors) -> None:
    calls = doors.calls

    @app.post("/v1/models/{model}:predict", openapi_extra=PREDICT_BODY, responses=PROBLEMS, tags=["inference"])
    async def predict(request: Request, model: str) -> Response:
        """Predict the class of each instance."""
        return await doors.predict(request, model)

    @app.post("/v1/models/{model}:explain", openapi_extra=EXPLAIN_BODY, responses=PROBLEMS, tags=["inference"])
    async def explain(request: Request, model: str) -> Response:
        """Predict each instance and explain it by training examples."""
        return await doors.explain(request, model)

    @app.post("/v1/models/{model}:scoreExamples", openapi_extra=QUERY_BODY, responses=PROBLEMS, tags=["inference"])
    async def score_examples(request: Request, model: str) -> Response:
        """Score named training examples for one input."""
        return await doors.query(request, model, pb.ScoreExamplesRequest(), calls.score_examples)

    @app.post("/v1/models/{model}:estimateRemoval", openapi_extra=QUERY_BODY, responses=PROBLEMS, tags=["inference"])
    async def estimate_removal(request: Request, model: str) -> Response:
        """Predict what the removal of a group of training examples would change."""
        return await doors.query(request, model, pb.EstimateRemovalRequest(), calls.estimate_removal)

    @app.post("/v1/models/{model}:findFlipSet", openapi_extra=QUERY_BODY, responses=PROBLEMS, tags=["inference"])
    async def find_flip_set(request: Request, model: str) -> Response:
        """Look for a group of training examples whose removal flips the prediction."""
        return await doors.query(request, model, pb.FindFlipSetRequest(), calls.find_flip_set)


def _add_example_routes(app: FastAPI, doors: HttpDoors) -> None:
    calls = doors.calls

    @app.get("/v1/models", tags=["models"])
    async def list_models(request: Request) -> Response:
        """List the models and whether they are ready."""
        calls.allow(None, _call_of(request))
        return JSONResponse({"models": [{"name": m.name, "ready": m.error is None} for m in calls.models.values()]})

    @app.get("/v1/models/{model}", responses=PROBLEMS, tags=["models"])
    async def get_model(request: Request, model: str) -> Response:
        """Describe a model and its bundle."""
        reply = await calls.get_model(pb.GetModelRequest(model=model), _call_of(request))
        ready = calls.models[model].error is None
        return JSONResponse({"name": model, "ready": ready, **to_json(reply)})

    @app.get("/v1/models/{model}/suspects", responses=PROBLEMS, tags=["models"])
    async def list_suspects(request: Request, model: str) -> Response:
        """Rank training examples by self-influence (query: limit, page_token)."""
        message = parse_message({**request.query_params, "model": model}, pb.ListSuspectsRequest())
        return json_response(await calls.list_suspects(message, _call_of(request)))

    @app.get("/v1/models/{model}/examples/{example_id:path}", responses=PROBLEMS, tags=["models"])
    async def get_model_example(request: Request, model: str, example_id: str) -> Response:
        """Return one training example."""
        return await _example(calls, request, model, example_id)

    @app.get("/v1/examples/{example_id:path}", responses=PROBLEMS, tags=["models"])
    async def get_example(request: Request, example_id: str, model: str = "") -> Response:
        """Return one training example (query: model, needed when several are served)."""
        return await _example(calls, request, model or _only_model(calls), example_id)


def _add_operation_routes(app: FastAPI, metrics: Metrics, readiness: Readiness) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", responses=PROBLEMS, tags=["operation"])
    async def readyz() -> Response:
        """Whether all models have been tried and one at least can answer; ``/v1/models/{model}:ready`` says which."""
        error = readiness.error()
        return JSONResponse({"status": "ready"}) if error is None else problem_response(error, status=503)

    @app.get("/v1/models/{model}:ready", responses=PROBLEMS, tags=["operation"])
    async def model_ready(model: str) -> Response:
        """Whether a worker answers for the model; 503 says why none does."""
        error = readiness.error_of(model)
        ready = {"name": model, "ready": True}
        return JSONResponse(ready) if error is None else problem_response(error, status=503)

    @app.get("/docs", tags=["operation"])
    async def docs(request: Request) -> Response:
        """Describe the paths for people."""
        return docs_response(request.app.openapi())

    @app.get("/metrics", tags=["operation"])
    async def figures() -> Response:
        """Figures in Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _call_of(request: Request) -> Call:
    return Call(request.state.request_id, request.headers.get("authorization", ""))


def _predictions(answers: Sequence[Any]) -> list[Any]:
    return [answer if isinstance(answer, dict) else answer.prediction for answer in answers]


def _only_model(calls: ExplanationCalls) -> str:
    if len(calls.models) != 1:
        raise InvalidInputError(
            f"several models are served ({', '.join(calls.models)}), expected ?model=NAME", field="model"
        )
    return next(iter(calls.models))


async def _example(calls: ExplanationCalls, request: Request, model: str, example_id: str) -> Response:
    if not example_id:
        raise NotFoundError("no example id in the path", field="example_id", reason="EXAMPLE_UNKNOWN")
    message = pb.GetExampleRequest(model=model, example_id=example_id)
    reply = await calls.get_example(message, _call_of(request))
    return json_response(reply.example)
