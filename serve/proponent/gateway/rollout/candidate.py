"""Whether a new deployment can do the work: it is registered, started, probed and warmed up, apart from traffic."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog

from proponent.errors import InvalidInputError, MismatchError, UnavailableError
from proponent.gateway.deployment import Deployment
from proponent.gateway.hosting.host import WorkerGroup, WorkerHost
from proponent.gateway.hosting.supervisor import POLL_S
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.hosting.worker_state import StartClock, ready_pids
from proponent.gateway.lane import Lane
from proponent.gateway.rollout.warm_up import warm_up_input
from proponent.index.faults import fault_point
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest

# Nothing else asks this worker yet.
_PROBE_TIMEOUT_S = 30.0
_log = structlog.get_logger("proponent.gateway")


@contextlib.asynccontextmanager
async def candidate(
    deployment: Deployment,
    groups: Sequence[WorkerGroup],
    host: WorkerHost,
    worker: WorkerClient,
    timeout_s: float,
) -> AsyncIterator[None]:
    """A block in which all lanes of the deployment have healthy workers; should it fail or not begin, they go.

    Raises:
        UnavailableError: A worker died or was not ready in time.
        ProponentError: What a worker says of the bundle.
    """
    try:
        for group in groups:
            await host.register(group)
        fault_point("switch.registered")
        for group in groups:
            await _started(group, host, timeout_s)
            await _check(deployment, group.lane, worker)
        fault_point("switch.checked")
        yield
    except BaseException:
        await _removed(groups, host)
        raise


async def _removed(groups: Sequence[WorkerGroup], host: WorkerHost) -> None:
    """Unregisters groups; a host that is gone has forgotten them already."""
    for group in groups:
        try:
            await host.unregister(group)
        except UnavailableError as error:
            _log.warning("version not unregistered", model=group.name, version=group.version, why=error.message)


async def _started(group: WorkerGroup, host: WorkerHost, timeout_s: float) -> None:
    model, clock = group.name, StartClock()
    while not ready_pids(workers := await host.workers(group)):
        if clock.died_while_starting(workers):
            raise UnavailableError(f"the new worker of model {model!r} died while it started", reason="WORKER_DIED")
        if clock.waited_s > timeout_s:
            raise UnavailableError(f"the new worker of model {model!r} was not ready within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)


async def _check(deployment: Deployment, lane: Lane, worker: WorkerClient) -> None:
    """Asks whether the bundle is sound, and for one answer, which also makes the first user's as fast as any."""
    problem = await worker.verdict(deployment, lane, _PROBE_TIMEOUT_S)
    if problem is not None:
        raise problem
    try:
        reply = await worker.send(deployment, _warm_up_request(deployment, lane), _PROBE_TIMEOUT_S)
    except InvalidInputError:
        # Not every model takes what is made up.
        return
    digest = (reply.predict if lane is Lane.PREDICTIONS else reply.explain).bundle_digest
    if digest != deployment.manifest.digest:
        raise MismatchError(
            f"the new worker answers with bundle {digest[:12]}, expected {deployment.manifest.digest[:12]}"
        )


def _warm_up_request(deployment: Deployment, lane: Lane) -> WorkerRequest:
    value = warm_up_input(deployment.manifest.signature)
    if lane is Lane.PREDICTIONS:
        return WorkerRequest(predict=pb.PredictRequest(model=deployment.model, **value))
    return WorkerRequest(explain=pb.ExplainRequest(model=deployment.model, top_k=1, **value))
