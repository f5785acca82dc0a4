"""The one place that every reply passes: the calls of the service as they are given to transports.

A caller is told what its level allows, as long as its budget lasts; and where disclosures are logged, not before the
log holds what it is told.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.protobuf.message import Message

from proponent.gateway.call import CallContext, Method
from proponent.gateway.limits.rate import CallRates
from proponent.gateway.privacy.audit_log import AuditLog
from proponent.gateway.privacy.budget import DisclosureBudget
from proponent.gateway.privacy.levels import disclosed_examples, require_level, withhold
from proponent.gateway.settings import Settings
from proponent.results import DisclosureLevel

EXPLANATIONS = ("Explain", "ScoreExamples", "HighlightExamples", "EstimateRemoval", "FindFlipSet")
"""The calls that take a gradient of the caller's input."""
_NOTHING_DISCLOSED = ("GetModel",)
# A walk over a message of this size takes a few milliseconds of the event loop.
_INLINE_BYTES = 64 << 10


@dataclass(frozen=True)
class DisclosureGate:
    """Lets replies out as far as their callers may be told.

    Attributes:
        rates: Calls a second, of which the parts of a larger call wait for theirs.
        budget: Of all callers.
        longest_wait_s: Longest time that a part of a call without a deadline waits for its turn.
        audit_log: None where disclosures are not logged.
    """

    rates: CallRates
    budget: DisclosureBudget
    longest_wait_s: float
    audit_log: AuditLog | None = None

    def guarded(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """The same calls behind the gate, by the proto's names."""
        return {name: replace(method, run=partial(self._run, name, method)) for name, method in methods.items()}

    async def _run(self, name: str, method: Method, request: Message, context: CallContext) -> Message:
        caller = context.caller
        require_level(caller.level, method.level, name)
        if context.admitted is not None:
            await self.rates.wait(caller, context.remaining_s(self.longest_wait_s))
        if name not in EXPLANATIONS:
            return await self._passed(name, method, request, context)
        self.budget.begin_explanation(caller)
        try:
            return await self._passed(name, method, request, context)
        except BaseException:
            self.budget.give_back(caller)
            raise

    async def _passed(self, name: str, method: Method, request: Message, context: CallContext) -> Message:
        reply: Any = await method.run(request, context)
        if "disclosure_level" not in reply.DESCRIPTOR.fields_by_name:
            return reply  # type: ignore[no-any-return]
        reply.disclosure_level = context.caller.level
        # A group's effect tells of each that is in it, though the reply names none.
        named = await self._reduced(reply, getattr(request, "example_ids", ()), context)
        query: Any = getattr(request, "query", request)
        self.budget.disclose(context.caller, query.model, named)
        if self.audit_log is not None and name not in _NOTHING_DISCLOSED:
            await self.audit_log.write(_record(name, query, reply, named, context))
        return reply  # type: ignore[no-any-return]

    async def _reduced(self, reply: Message, asked: Sequence[str], context: CallContext) -> list[str]:
        """Takes out of a reply what its caller is not told; returns the examples it tells of, if those count."""
        caller = context.caller
        counted = self.audit_log is not None or bool(caller.allowance.examples)
        if caller.level is DisclosureLevel.FULL and not counted:
            return []
        if reply.ByteSize() <= _INLINE_BYTES:
            return _reduce(reply, asked, caller.level, counted)
        return await asyncio.to_thread(_reduce, reply, asked, caller.level, counted)


def gate_of(settings: Settings) -> DisclosureGate:
    """What an operator's settings ask for; an audit log that is there already tells what has been disclosed.

    Raises:
        SpecError: The audit log cannot be used.
    """
    budget, log = DisclosureBudget(settings.caller_window), None
    if settings.audit_log is not None:
        log = AuditLog(settings.audit_log, settings.audit_log_bytes, settings.audit_log_files)
        for record in log.records():
            _restore(budget, record)
    return DisclosureGate(CallRates(), budget, settings.request_timeout, log)


def _restore(budget: DisclosureBudget, record: Mapping[str, Any]) -> None:
    """Counts a record of the audit log; one that somebody else wrote in another form is passed over."""
    with suppress(KeyError, TypeError, ValueError):
        at = datetime.fromisoformat(record["time"]).timestamp()
        explanation = record["method"] in EXPLANATIONS
        budget.restore(record["caller"], at, record["model"], record["examples"], explanation=explanation)


def _reduce(reply: Message, asked: Sequence[str], level: DisclosureLevel, counted: bool) -> list[str]:
    withhold(reply, level)
    return list(dict.fromkeys((*disclosed_examples(reply), *asked))) if counted else []


def _record(name: str, query: Any, reply: Any, named: list[str], context: CallContext) -> dict[str, Any]:
    """A line of the audit log; what takes long is a function, called when it is written."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "caller": context.caller.name,
        "method": name,
        "request_id": context.request_id,
        "model": query.model,
        "bundle": reply.other if name == "DiffBundles" else reply.bundle_digest,
        "level": context.caller.level.name.lower(),
        "input_sha256": partial(_input_digest, query),
        "examples": named,
    }


def _input_digest(query: Any) -> str:
    """Hash of the caller's input; empty where the call has none."""
    if "encoded_image" not in query.DESCRIPTOR.fields_by_name:
        return ""
    kind = query.WhichOneof("input") or "encoded_image"
    value = getattr(query, kind)
    if kind in ("record", "tensors"):
        value = value.SerializeToString(deterministic=True)
    return hashlib.sha256(value.data if kind == "tensor" else value.encode() if kind == "text" else value).hexdigest()
