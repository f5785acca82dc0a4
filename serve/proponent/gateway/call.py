"""A call of the service as transports and the calls' own code see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from proponent.gateway.auth import Caller, Scope
from proponent.gateway.deployment import Deployment
from proponent.gateway.lane import Lane
from proponent.gateway.tracing import UNTRACED, Span
from proponent.results import DisclosureLevel

NOBODY = Caller("nobody", frozenset(), DisclosureLevel.LABELS)


@dataclass(frozen=True)
class CallContext:
    """What a transport knows of a call beside its message.

    Attributes:
        request_id: Follows the call through logs and replies.
        caller: Who calls, see ``ExplanationCalls.permit``; until then nobody, who may do nothing.
        timeout_s: Time that the caller gives it, from ``started``; None where there is no deadline.
        deployment: Makes one bundle answer every part of a call; else each part goes where requests go by then.
        admitted: Of a part of a larger call, which waits for its slot and is not refused: called when it has it.
        span: Of the call, below which its work is traced.
        started: When the call began, by the monotonic clock.
    """

    request_id: str = ""
    caller: Caller = NOBODY
    timeout_s: float | None = None
    deployment: Deployment | None = None
    admitted: Callable[[], None] | None = None
    span: Span = UNTRACED
    started: float = field(default_factory=time.monotonic)

    def remaining_s(self, longest: float) -> float:
        """Seconds left until the deadline, at most ``longest``."""
        left = longest if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()
        return min(left, longest)


Run = Callable[[Any, CallContext], Coroutine[Any, Any, Any]]
"""A request's message and its context in, a reply's message out."""


@dataclass(frozen=True)
class Method:
    """A call of the service as transports need to know it.

    Attributes:
        request: Type of its message.
        scope: What ``ExplanationCalls.permit`` is to be asked for before ``run``; None for any known token.
        run: The call itself.
        level: What the caller must be told at least, lest the reply have nothing to say.
        lane: Whose workers answer, where any do.
        public: Whether it needs no token at all, as what says that the server is ready.
    """

    request: type[Message]
    scope: Scope | None
    run: Run
    level: DisclosureLevel = DisclosureLevel.LABELS
    lane: Lane = Lane.EXPLANATIONS
    public: bool = False
