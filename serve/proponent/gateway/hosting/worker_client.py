"""The gateway's side of the conversation with workers, whatever hosts them."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from google.rpc import code_pb2

from proponent.bounds.liveness import TicketIssuer
from proponent.errors import DeadlineError, InternalError, ProponentError, UnavailableError
from proponent.gateway.deployment import Deployment
from proponent.gateway.error_mapping import from_item_error
from proponent.gateway.hosting.exchange import Exchange, Group
from proponent.gateway.hosting.host import WorkerDefectError, WorkerGoneError, WorkerHost
from proponent.gateway.hosting.in_flight import InFlight
from proponent.gateway.lane import Lane
from proponent.gateway.limits.admission import Held
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest


class WorkerClient:
    """Sends WorkerRequests; connected to every host that is started.

    Hosts do not cancel work. So a caller who leaves, or whose deadline passes, gets an error at once, but
    the request is followed until the worker is done with it, and its ticket is taken from the table, so that the
    worker drops it.

    Args:
        overdue_s: How long after its deadline a request is still followed; a worker that takes longer for it is
            replaced by its host.
    """

    def __init__(self, overdue_s: float) -> None:
        self._host: WorkerHost | None = None
        self._overdue_s = overdue_s
        self._starting = True
        self._tickets: TicketIssuer | None = None
        self._in_flight = InFlight()

    def connect(self, host: WorkerHost, tickets: TicketIssuer) -> None:
        """Asks a host from now on, whose workers see these tickets."""
        self._host, self._tickets, self._starting = host, tickets, False

    def disconnect(self) -> None:
        """There is no host for now."""
        self._host = None

    async def send(
        self, deployment: Deployment, request: WorkerRequest, timeout_s: float, held: Held | None = None
    ) -> WorkerReply:
        """One request, one reply of the same kind.

        Args:
            deployment: Who answers.
            request: What is asked; its deadline and ticket are filled in.
            timeout_s: How long the caller waits.
            held: Closed when the worker is done with the request, which may be after this call has ended.

        Raises:
            ProponentError: What the worker said of the request, or why there is no answer: DeadlineError,
                UnavailableError for a worker that died.
            WorkerDefectError: The worker failed.
        """
        served_as = deployment.served_as(Lane.of(request))
        reply = await self._reply(deployment, served_as, request, timeout_s, held or Held())
        outcome = reply.WhichOneof("outcome")
        if outcome == "error" and reply.error.code == code_pb2.INTERNAL:
            raise WorkerDefectError(reply.error.message)
        if outcome == "error":
            raise from_item_error(reply.error)
        if outcome != request.WhichOneof("call"):
            raise InternalError(f"worker answered {outcome or 'nothing'} to {request.WhichOneof('call')}")
        return reply

    async def verdict(self, deployment: Deployment, lane: Lane, timeout_s: float) -> ProponentError | None:
        """What a worker of a lane says of its bundle: None where it is sound.

        Raises:
            UnavailableError: It said nothing, which says nothing of the bundle.
        """
        asked, asked_at = deployment.served_as(lane), time.monotonic()
        try:
            reply = await self._reply(deployment, asked, WorkerRequest(), timeout_s, Held())
        except ProponentError as error:
            raise UnavailableError(
                f"the worker of model {deployment.model!r} was asked for its state and gave no answer: "
                f"{error.message}",
                reason="WORKER_UNRESPONSIVE",
            ) from error
        if self._tickets is not None:
            self._in_flight.answered((asked, deployment.version), asked_at, self._tickets)
        return from_item_error(reply.error) if reply.HasField("error") else None

    async def _reply(
        self, deployment: Deployment, served_as: str, request: WorkerRequest, timeout_s: float, held: Held
    ) -> WorkerReply:
        """The reply within the caller's time; the request is followed beyond it."""
        request.deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        tickets, ticket = self._tickets, 0
        if tickets is not None:
            request.ticket = ticket = tickets.issue()
            held.callback(partial(tickets.retire, ticket))
        try:
            return await self._ask(deployment, (served_as, deployment.version), request, timeout_s, held).outcome
        except TimeoutError:
            raise _late(deployment.model, timeout_s) from None
        finally:
            if tickets is not None:
                tickets.withdraw(ticket)

    def _ask(
        self, deployment: Deployment, group: Group, request: WorkerRequest, timeout_s: float, held: Held
    ) -> Exchange:
        """Sends a request, which is followed until the worker is done with it."""
        try:
            reply = self._sent(group, request)
        except WorkerGoneError as error:
            held.close()
            raise _died(deployment.model) from error
        except BaseException:
            held.close()
            raise
        exchange = Exchange(group, request.ticket, reply, timeout_s, self._overdue_s)
        self._in_flight.add(exchange)
        reply.add_done_callback(partial(self._end, exchange, deployment.model, held))
        return exchange

    def _sent(self, group: Group, request: WorkerRequest) -> asyncio.Future[bytes]:
        if self._host is None:
            raise self._no_host()
        return self._host.ask(*group, request.SerializeToString())

    def _end(self, exchange: Exchange, model: str, held: Held, reply: asyncio.Future[bytes]) -> None:
        """Reads a reply, lets go what was held for it, and tells the caller, if that one is still there."""
        self._in_flight.discard(exchange)
        outcome: WorkerReply | Exception
        try:
            outcome = self._read(exchange, model, reply)
            held.observe(_begun_ns(outcome))
        except Exception as error:
            outcome = error
        held.close()
        exchange.end(outcome)

    def _read(self, exchange: Exchange, model: str, reply: asyncio.Future[bytes]) -> WorkerReply:
        if reply.cancelled():
            raise _died(model) if exchange.is_lost else _late(model, time.monotonic() - exchange.sent_at)
        try:
            return WorkerReply.FromString(reply.result())
        except WorkerGoneError as error:
            raise _died(model) from error
        except OSError as error:
            raise self._no_host() from error

    def _no_host(self) -> UnavailableError:
        if self._starting:
            return UnavailableError("the model server is starting", reason="WORKER_STARTING")
        return UnavailableError("the model server is being restarted", reason="WORKER_RESTARTING")


def _late(model: str, seconds: float) -> DeadlineError:
    return DeadlineError(f"model {model!r} gave no answer within {seconds:.3g} s")


def _died(model: str) -> UnavailableError:
    return UnavailableError(f"the worker of model {model!r} died; it is being restarted", reason="WORKER_DIED")


def _begun_ns(reply: WorkerReply) -> int:
    """When the request left TorchServe's queue; 0 where that is not said."""
    return next((stage.end_ns for stage in reply.stages if stage.name == "queue"), 0)
