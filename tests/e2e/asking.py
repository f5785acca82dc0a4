"""The two kinds of calls, one for each lane of workers, and how a service answers them."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from inputs import GOOD, MODEL
from running import RunningGateway
from test_service import details

from proponent.v1 import explanation_pb2 as pb

PREDICT = pb.PredictRequest(model=MODEL, encoded_image=GOOD)
EXPLAIN = pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=3)
OK = "OK"


def begin(gateway: RunningGateway, *, explains: bool, timeout_s: float = 25.0) -> Any:
    """Sends a call of one lane; returns its future."""
    call, request = (gateway.rpc.Explain, EXPLAIN) if explains else (gateway.rpc.Predict, PREDICT)
    return call.future(request, timeout=timeout_s)


def ask(gateway: RunningGateway, *, explains: bool, timeout_s: float = 25.0) -> str:
    """OK, or the reason of the refusal."""
    return said(begin(gateway, explains=explains, timeout_s=timeout_s))


def said(call: Any) -> str:
    """How a call ended: OK, the reason of its refusal, or where it has none its code, which is never right."""
    error = call.exception()
    if error is None:
        return OK
    if not any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()):
        return f"{error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.UNAVAILABLE and details(error)[0] != "BUNDLE_CORRUPT":
        assert any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in rpc_status.from_call(error).details)
    return details(error)[0]


def ready(gateway: RunningGateway) -> bool:
    """What /readyz says, which the health of gRPC must say too."""
    reply = gateway.get("/readyz")
    return reply is not None and reply.status_code == 200


def serving(gateway: RunningGateway) -> bool:
    """What gRPC's health service says of the model."""
    name = f"proponent.v1.ExplanationService/{MODEL}"
    asked = health_pb2.HealthCheckRequest(service=name)
    status = health_pb2_grpc.HealthStub(gateway.channel).Check(asked, timeout=10).status
    return int(status) == health_pb2.HealthCheckResponse.SERVING
