"""The one place that every reply passes: the calls of the service as they are given to transports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from google.protobuf.message import Message

from proponent.gateway.call import CallContext, Method
from proponent.gateway.privacy.levels import require_level, withhold


class DisclosureGate:
    """Lets replies out as far as their caller may be told."""

    def guarded(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """The same calls behind the gate, by the proto's names."""
        return {name: replace(method, run=partial(self._run, name, method)) for name, method in methods.items()}

    async def _run(self, name: str, method: Method, request: Message, context: CallContext) -> Message:
        level = context.caller.level
        require_level(level, method.level, name)
        reply: Any = await method.run(request, context)
        if "disclosure_level" in reply.DESCRIPTOR.fields_by_name:
            reply.disclosure_level = level
            withhold(reply, level)
        return reply  # type: ignore[no-any-return]
