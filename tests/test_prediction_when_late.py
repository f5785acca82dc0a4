"""A caller who prefers a prediction to nothing gets it in time, whatever becomes of the explanation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import Service, echo
from proponent.errors import (
    CorruptBundleError,
    DeadlineError,
    InvalidInputError,
    OverloadedError,
    ProponentError,
    UnavailableError,
)
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.lane import Lane
from proponent.gateway.service import CallContext
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

LATE = pb.DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE
Send = Callable[..., Coroutine[Any, Any, WorkerReply]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, max_explanations=1, max_waiting=0)
    yield made
    made.close()


def explaining(service: Service, takes_s: float, error: ProponentError | None = None) -> list[str]:
    """Makes explanations take so long, or their deadline; returns the kinds of calls as they come."""
    asked: list[str] = []

    async def send(_: Any, request: WorkerRequest, timeout_s: float, held: Any) -> WorkerReply:
        asked.append(request.WhichOneof("call") or "")
        with closing(held):
            if asked[-1] == "explain":
                await asyncio.sleep(min(takes_s, timeout_s))
                if error is not None:
                    raise error
                if takes_s >= timeout_s:
                    raise DeadlineError("the deadline passed before the answer was ready")
            return echo(request)

    service.worker.send = send  # type: ignore[method-assign]
    return asked


def ask(service: Service, timeout_s: float, **values: Any) -> pb.ExplainResponse:
    request = pb.ExplainRequest(
        **{"model": "toy", "encoded_image": b"png", "deadline_policy": LATE, "request_id": "seven", **values}
    )
    return asyncio.run(service.calls.explain(request, CallContext("id", ANYBODY, timeout_s)))


def codes(reply: pb.ExplainResponse) -> list[int]:
    return [notice.code for notice in reply.notices]


def test_an_explanation_in_time_costs_no_prediction_beside_it(service: Service) -> None:
    asked = explaining(service, takes_s=0.01)
    assert codes(ask(service, timeout_s=10.0)) == []
    assert asked == ["explain"]


def test_a_late_explanation_leaves_the_prediction_within_the_deadline(service: Service) -> None:
    asked = explaining(service, takes_s=60.0)
    started = time.monotonic()
    reply = ask(service, timeout_s=1.0)
    assert time.monotonic() - started < 1.0
    assert asked == ["explain", "predict"]
    assert (reply.prediction.label, reply.target_class_id, reply.request_id) == ("b", 1, "seven")
    assert codes(reply) == [pb.Notice.CODE_EXPLANATION_LATE]
    assert (list(reply.results), reply.train_size, reply.quality.curvature) == ([], 5000, "exact")


def test_the_target_asked_for_is_named_even_so(service: Service) -> None:
    explaining(service, takes_s=60.0)
    assert ask(service, timeout_s=0.2, target=pb.Target(class_id=2)).target_class_id == 2
    contrast = pb.Target(contrast=pb.Contrast(for_class_id=0, against_class_id=2))
    assert ask(service, timeout_s=0.2, target=contrast).target_class_id == 0


def test_an_explanation_that_comes_while_the_prediction_is_asked_for_is_taken(service: Service) -> None:
    asked = explaining(service, takes_s=0.6)
    assert codes(ask(service, timeout_s=1.0)) == []
    assert asked == ["explain", "predict"]


def test_no_room_for_an_explanation_is_room_for_a_prediction(service: Service) -> None:
    explaining(service, takes_s=0.0, error=OverloadedError("1 Explain calls are in flight"))
    assert codes(ask(service, timeout_s=10.0)) == [pb.Notice.CODE_EXPLANATION_LATE]


@pytest.mark.parametrize("policy", [LATE, pb.DEADLINE_POLICY_FAIL_WHEN_LATE])
def test_a_worker_that_is_away_takes_no_prediction_with_it(service: Service, policy: Any) -> None:
    asked = explaining(service, takes_s=0.0)
    starting = UnavailableError("the worker of model 'toy' is starting", reason="WORKER_STARTING")
    service.model.set_error(starting, Lane.EXPLANATIONS)
    if policy == LATE:
        reply = ask(service, timeout_s=10.0)
        assert (codes(reply), reply.prediction.label, asked) == ([pb.Notice.CODE_EXPLANATION_LATE], "b", ["predict"])
        service.model.set_error(starting)
    with pytest.raises(UnavailableError):
        ask(service, timeout_s=10.0, deadline_policy=policy)


@pytest.mark.parametrize("reason", ["WORKER_RESTARTING", "WORKER_UNRESPONSIVE"])
def test_a_worker_that_goes_before_it_takes_the_request_is_away(service: Service, reason: str) -> None:
    asked = explaining(service, takes_s=0.0, error=UnavailableError("gone", reason=reason))
    assert codes(ask(service, timeout_s=10.0)) == [pb.Notice.CODE_EXPLANATION_LATE]
    assert asked == ["explain", "predict"]


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("unreadable", field="encoded_image"),
        UnavailableError("died with the request, and perhaps of it", reason="WORKER_DIED"),
        CorruptBundleError("rows.faiss is damaged"),
    ],
)
def test_another_failure_is_told(service: Service, error: ProponentError) -> None:
    explaining(service, takes_s=0.0, error=error)
    with pytest.raises(type(error)):
        ask(service, timeout_s=10.0)


def test_without_the_policy_late_is_late(service: Service) -> None:
    explaining(service, takes_s=60.0)
    with pytest.raises(DeadlineError):
        ask(service, timeout_s=0.2, deadline_policy=pb.DEADLINE_POLICY_FAIL_WHEN_LATE)


def test_a_caller_who_leaves_ends_both_calls(service: Service) -> None:
    explaining(service, takes_s=60.0)
    request = pb.ExplainRequest(model="toy", encoded_image=b"png", deadline_policy=LATE)

    async def leave() -> set[str]:
        task = asyncio.create_task(service.calls.explain(request, CallContext("id", ANYBODY, 60.0)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return {other.get_name() for other in asyncio.all_tasks() - {asyncio.current_task()}}

    assert asyncio.run(leave()) == set()
    explaining(service, takes_s=0.0)
    assert codes(ask(service, timeout_s=10.0)) == []
