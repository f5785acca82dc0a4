"""Many explanations over one connection: a bounded number in flight, answers as they come, errors item by item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from proponent.gateway.service import Call, ExplanationCalls
from proponent.gateway.status import as_proponent_error, to_item_error
from proponent.gateway.validation import check_rules
from proponent.v1 import explanation_pb2 as pb

_Answer = asyncio.Task[pb.StreamExplainResponse]


async def explain_stream(
    calls: ExplanationCalls, requests: AsyncIterator[pb.StreamExplainRequest], call: Call, in_flight: int
) -> AsyncIterator[pb.StreamExplainResponse]:
    """Reads on while fewer than ``in_flight`` items are being worked on; the caller's pace bounds the rest."""
    answers: set[_Answer] = set()
    reading: asyncio.Task[pb.StreamExplainRequest | None] | None = _read(requests)
    try:
        while reading or answers:
            waiting = {reading} if reading and len(answers) < in_flight else set()
            await asyncio.wait(answers | waiting, return_when=asyncio.FIRST_COMPLETED)
            finished = [answer for answer in answers if answer.done()]
            if reading in waiting and reading is not None and reading.done():
                item = reading.result()
                reading = _read(requests) if item is not None else None
                answers |= {asyncio.create_task(_answer(calls, item, call))} if item is not None else set()
            answers -= set(finished)
            for answer in finished:
                yield answer.result()
    finally:
        await _cancel([*answers, *([reading] if reading else [])])


def _read(requests: AsyncIterator[pb.StreamExplainRequest]) -> asyncio.Task[pb.StreamExplainRequest | None]:
    return asyncio.ensure_future(_next(requests))


async def _next(requests: AsyncIterator[pb.StreamExplainRequest]) -> pb.StreamExplainRequest | None:
    return await anext(requests, None)


async def _answer(calls: ExplanationCalls, item: pb.StreamExplainRequest, call: Call) -> pb.StreamExplainResponse:
    request_id = item.request.request_id
    try:
        check_rules(item)
        return pb.StreamExplainResponse(request_id=request_id, response=await calls.explain(item.request, call))
    except Exception as error:
        return pb.StreamExplainResponse(request_id=request_id, error=to_item_error(as_proponent_error(error)))


async def _cancel(tasks: list[asyncio.Task[pb.StreamExplainRequest | None] | _Answer]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
