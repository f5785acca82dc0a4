"""Many explanations over one connection: a bounded number in flight, answers as they come, errors item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from proponent.gateway.error_mapping import as_proponent_error, to_item_error
from proponent.gateway.limits.body_budget import BodyBudget
from proponent.gateway.parts import Placed, answer_parts
from proponent.gateway.service import Call, ExplanationCalls
from proponent.gateway.validation import check_rules, parse
from proponent.v1 import explanation_pb2 as pb


def explain_stream(
    calls: ExplanationCalls, messages: AsyncIterator[bytes], call: Call, in_flight: int, bodies: BodyBudget
) -> AsyncIterator[pb.StreamExplainResponse]:
    """Reads on while fewer than ``in_flight`` items are being worked on and the last one read has its slot."""

    async def answer(message: bytes, placed: Placed) -> pb.StreamExplainResponse:
        await bodies.wait(len(message))
        item = pb.StreamExplainRequest()
        try:
            item = parse(pb.StreamExplainRequest, message)
            check_rules(item)
            reply = await calls.explain(item.request, replace(call, placed=placed))
            return pb.StreamExplainResponse(request_id=item.request.request_id, response=reply)
        except Exception as error:
            known = to_item_error(as_proponent_error(error, call.request_id))
            return pb.StreamExplainResponse(request_id=item.request.request_id, error=known)
        finally:
            bodies.give(len(message))

    return answer_parts(messages, answer, in_flight)
