"""DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE: an explanation in time, or else the prediction alone in time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from proponent.errors import DeadlineError, OverloadedError, ProponentError, UnavailableError
from proponent.gateway.lane import Lane
from proponent.index.bundle import Manifest
from proponent.v1 import explanation_pb2 as pb

LATE = pb.DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE
# No worker is there to explain. One that died with the request is another matter: it may have died of it.
_AWAY = ("WORKER_STARTING", "WORKER_RESTARTING", "WORKER_UNRESPONSIVE")
_PATIENCE = 0.5
"""Share of the time that the explanation has to itself, before the prediction is asked for as well."""
_TRAVEL = 0.1
_LONGEST_TRAVEL_S = 0.25


def lane_needed(lane: Lane, requests: Iterable[Message]) -> Lane:
    """Whose workers must be there for requests of a lane: those of predictions, where one alone would do for each."""
    suffices = all(isinstance(each, pb.ExplainRequest) and each.deadline_policy == LATE for each in requests)
    return Lane.PREDICTIONS if suffices else lane


def explanation_time(timeout_s: float) -> float:
    """Seconds that an explanation may take, so that another answer still reaches the caller."""
    return timeout_s - min(_TRAVEL * timeout_s, _LONGEST_TRAVEL_S)


def prediction_of(request: pb.ExplainRequest) -> pb.PredictRequest:
    """The request for the prediction alone."""
    kind = request.WhichOneof("input") or "encoded_image"
    value: dict[str, Any] = {kind: getattr(request, kind)}
    return pb.PredictRequest(model=request.model, request_id=request.request_id, **value)


async def explain_or_predict(
    explaining: Coroutine[Any, Any, pb.ExplainResponse],
    predict: Callable[[], Coroutine[Any, Any, pb.PredictResponse]],
    timeout_s: float,
) -> pb.ExplainResponse | tuple[pb.PredictResponse, ProponentError]:
    """The explanation, or where it fails for lack of time, room or a worker, the prediction and why.

    Args:
        explaining: Ends by itself, with DeadlineError, after ``explanation_time``.
        predict: Asked once the explanation has taken half of the time, or has failed.
        timeout_s: Time that the caller gives.
    """
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(_unless_late(explaining))]
    try:
        done, _ = await asyncio.wait(tasks, timeout=_PATIENCE * timeout_s)
        if done and isinstance(found := tasks[0].result(), pb.ExplainResponse):
            return found
        tasks.append(asyncio.create_task(predict()))
        found = await tasks[0]
        return found if isinstance(found, pb.ExplainResponse) else (await tasks[1], found)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def prediction_alone(
    request: pb.ExplainRequest, reply: pb.PredictResponse, why: ProponentError, manifest: Manifest
) -> pb.ExplainResponse:
    """The answer to a request whose explanation did not come."""
    audit = Struct()
    audit.update(manifest.audit)
    target = {"class_id": request.target.class_id, "contrast": request.target.contrast.for_class_id}
    return pb.ExplainResponse(
        prediction=reply.prediction,
        target_class_id=target.get(request.target.WhichOneof("kind") or "", reply.prediction.class_id),
        against_class_id=request.target.contrast.against_class_id if request.target.HasField("contrast") else None,
        bundle_digest=reply.bundle_digest,
        quality=pb.Quality(curvature=manifest.curvature, kept_energy=manifest.kept_energy, audit=audit),
        train_size=manifest.train_size,
        notices=[
            pb.Notice(code="CODE_EXPLANATION_LATE", message=f"only the prediction is answered: {why.message}"),
        ],
        explanation_id=str(uuid.uuid4()),
        request_id=reply.request_id,
    )


async def _unless_late(
    explaining: Coroutine[Any, Any, pb.ExplainResponse],
) -> pb.ExplainResponse | ProponentError:
    try:
        return await explaining
    except (DeadlineError, OverloadedError) as error:
        return error
    except UnavailableError as error:
        if error.reason not in _AWAY:
            raise
        return error
