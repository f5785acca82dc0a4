"""The HTTP transport's application: KServe v1 bodies, problem+json errors, health, metrics and OpenAPI."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from proponent.errors import ProponentError
from proponent.gateway.http.body import BodyReader
from proponent.gateway.http.endpoints import InferenceEndpoints, ModelEndpoints, OperationEndpoints
from proponent.gateway.http.explorer import route_explorer
from proponent.gateway.http.middleware import RequestLog
from proponent.gateway.http.openapi import EXPLAIN_BODY, PREDICT_BODY, PROBLEMS, QUERY_BODY
from proponent.gateway.http.problem import answer_error
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import Readiness
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings

_MODEL = "/v1/models/{model}"


def create_app(calls: ExplanationCalls, metrics: Metrics, readiness: Readiness, settings: Settings) -> FastAPI:
    """The application with all its routes."""
    summary = "Predictions and the training examples behind them."
    app = FastAPI(title="proponent", summary=summary, docs_url=None, redoc_url=None)
    app.add_exception_handler(ProponentError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_middleware(RequestLog, metrics=metrics)
    _route_operation(app, OperationEndpoints(metrics, readiness))
    _route_inference(app, InferenceEndpoints(calls, settings, BodyReader(settings)))
    _route_models(app, ModelEndpoints(calls))
    if settings.serves_explorer:
        route_explorer(app)
    return app


def _route_operation(app: FastAPI, endpoints: OperationEndpoints) -> None:
    for path, endpoint, responses in (
        ("/healthz", endpoints.healthz, {}),
        ("/readyz", endpoints.readyz, PROBLEMS),
        (f"{_MODEL}:ready", endpoints.model_ready, PROBLEMS),
        ("/docs", endpoints.docs, {}),
        ("/metrics", endpoints.metrics, {}),
    ):
        app.get(path, responses=responses, tags=["operation"])(endpoint)


def _route_inference(app: FastAPI, endpoints: InferenceEndpoints) -> None:
    for verb, endpoint, body in (
        ("predict", endpoints.predict, PREDICT_BODY),
        ("explain", endpoints.explain, EXPLAIN_BODY),
        ("scoreExamples", endpoints.score_examples, QUERY_BODY),
        ("estimateRemoval", endpoints.estimate_removal, QUERY_BODY),
        ("findFlipSet", endpoints.find_flip_set, QUERY_BODY),
    ):
        app.post(f"{_MODEL}:{verb}", openapi_extra=body, responses=PROBLEMS, tags=["inference"])(endpoint)


def _route_models(app: FastAPI, endpoints: ModelEndpoints) -> None:
    for path, endpoint, responses in (
        ("/v1/models", endpoints.list_models, {}),
        (_MODEL, endpoints.get_model, PROBLEMS),
        (f"{_MODEL}/suspects", endpoints.list_suspects, PROBLEMS),
        (f"{_MODEL}/examples/{{example_id:path}}", endpoints.get_model_example, PROBLEMS),
        ("/v1/examples/{example_id:path}", endpoints.get_example, PROBLEMS),
    ):
        app.get(path, responses=responses, tags=["models"])(endpoint)
