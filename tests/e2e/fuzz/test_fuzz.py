"""The short form of `scripts/fuzz`, and that the long one can be believed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from fuzz_inputs import fuzz_input
from fuzz_memory import MIB, Trend
from fuzz_messages import MODEL, MessageMaker, Words, sound_requests
from fuzz_run import Findings, run
from fuzz_send import REPLIES
from fuzz_verdict import http_fault, raw_http_fault, reply_fault
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import code_pb2
from running import RunningGateway

from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Worker
from proponent.worker.wire import read_messages

SEED = 11


def kinds(message: Message) -> set[str]:
    """The kinds of messages that a message holds, its own included."""
    found = {message.DESCRIPTOR.full_name}
    for field, value in message.ListFields():
        if field.message_type is not None:
            listed = value.values() if field.message_type.GetOptions().map_entry else value
            for each in listed if field.is_repeated else [value]:
                found |= kinds(each)
    return found


def below(descriptor: Descriptor, seen: frozenset[Descriptor] = frozenset()) -> set[str]:
    """The kinds of messages that one of a kind may hold, its own included; a record's values may hold each other."""
    if descriptor in seen:
        return set()
    inner = {f.message_type for f in descriptor.fields if f.message_type is not None}
    named = set[str]() if descriptor.GetOptions().map_entry else {descriptor.full_name}
    return named.union(*(below(each, seen | {descriptor}) for each in inner))


def test_every_message_that_a_caller_may_send_is_made() -> None:
    requests = sound_requests(Words())
    assert set(requests) == set(REPLIES)
    maker, found = MessageMaker(Words(), random.Random(SEED)), set[str]()
    expected = set[str]().union(*(below(each[0].DESCRIPTOR) for each in requests.values()))
    for _ in range(60):
        for bases in requests.values():
            found |= kinds(maker.message(bases[0].DESCRIPTOR))
    assert expected - found == set()


def test_an_input_is_made_again_of_its_seed_and_number() -> None:
    first, again = ([fuzz_input(SEED, number, Words()) for number in range(60)] for _ in range(2))
    assert first == again and len({each.parts[0] for each in first}) > 40
    assert fuzz_input(SEED + 1, 3, Words()) != first[3]


def test_what_no_caller_should_get_is_a_finding() -> None:
    assert "500" in http_fault(500, {}, b'{"reason": "INTERNAL"}')
    assert http_fault(503, {}, b'{"reason": "X"}') and not http_fault(503, {"retry-after": "2"}, b'{"reason": "X"}')
    late = b'{"reason": "DEADLINE_EXCEEDED"}'
    assert http_fault(504, {}, late) and not http_fault(504, {}, late, own_deadline=True)
    assert "without a reason" in http_fault(400, {}, b"no") and not http_fault(400, {}, b'{"reason": "X"}')
    assert raw_http_fault(b"HTTP/1.1 500 Oh\r\n\r\n{}") and raw_http_fault(b"hello")
    assert not raw_http_fault(b"") and not raw_http_fault(b"HTTP/1.1 400 Bad\r\n\r\n{}")
    assert reply_fault(pb.PredictResponse, b"\xff\xff") and not reply_fault(pb.PredictResponse, b"")


def test_memory_that_grows_after_the_warm_up_is_not_flat() -> None:
    filling = [(n, 100 * MIB + min(n, 400) * MIB // 8) for n in range(0, 1000, 10)]
    assert Trend.of("worker", filling).flat
    leaking = Trend.of("worker", [(n, size + n * MIB // 40) for n, size in filling])
    assert not leaking.flat and leaking.per_thousand == pytest.approx(25 * MIB, rel=0.01)


@pytest.mark.e2e
def test_a_worker_answers_whatever_it_is_sent(digits: Path) -> None:
    """Also what no gateway would let through, each item by itself and none by a defect."""
    store = Store(digits / "store")
    worker = Worker.load(store.current(MODEL), None, None)
    maker, codes = MessageMaker(Words(), random.Random(SEED)), Counter[int]()
    for _ in range(60):
        requests = [maker.bytes_of(maker.message(WorkerRequest.DESCRIPTOR)) for _ in range(8)]
        for reply in worker.handle(read_messages(requests)):
            codes[reply.error.code] += 1
            assert reply.error.code != code_pb2.INTERNAL, (requests, reply)
    assert set(codes) >= {code_pb2.OK, code_pb2.INVALID_ARGUMENT}


@pytest.mark.e2e
def test_a_service_stands_a_thousand_inputs(service: RunningGateway, tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    run(service, range(1000), SEED, 100, findings)
    assert findings.found == []
