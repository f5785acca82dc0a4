"""What is told of training examples is in the audit log before it is told, or is not told; predictions go on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import Service, echo
from proponent.errors import QuotaError, SpecError, UnavailableError
from proponent.gateway.auth import Allowance, Caller, Scope
from proponent.gateway.call import CallContext
from proponent.gateway.privacy.audit_log import AuditLog
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

IMAGE = b"\x89PNG of a person"
QUERY = pb.ExplainRequest(model="toy", encoded_image=IMAGE)
ALICE = Caller("alice", frozenset(Scope), DisclosureLevel.RANKS, Allowance(explanations=2))
CALL = CallContext("request-1", ALICE)


def explaining(request: WorkerRequest) -> WorkerReply:
    found = pb.MeasureResult(proponents=[pb.Influence(example_id="toy/7", score=1.0)] * 2)
    return WorkerReply(explain=pb.ExplainResponse(results=[found], bundle_digest="f" * 64))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, allow_examples=True, audit_log=tmp_path / "audit.jsonl")
    made.worker.handle = explaining
    yield made
    made.close()


def ask(service: Service, name: str, request: Any) -> Any:
    return asyncio.run(service.calls.methods[name].run(request, CALL))


def lines(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (service.settings.audit_log or Path()).read_text().splitlines()]


def test_a_disclosure_is_a_line(service: Service) -> None:
    ask(service, "Explain", QUERY)
    [line] = lines(service)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "caller": "alice",
        "method": "Explain",
        "request_id": "request-1",
        "model": "toy",
        "bundle": "f" * 64,
        "level": "ranks",
        "input_sha256": hashlib.sha256(IMAGE).hexdigest(),
        "examples": ["toy/7"],
    }
    path = service.settings.audit_log
    assert path is not None and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"person" not in path.read_bytes()


def test_what_discloses_is_logged_and_what_does_not_is_not(service: Service) -> None:
    ask(service, "GetModel", pb.GetModelRequest(model="toy"))
    assert lines(service) == []
    ask(service, "GetExample", pb.GetExampleRequest(model="toy", example_id="toy/4"))
    ask(service, "ListSuspects", pb.ListSuspectsRequest(model="toy", limit=2))
    assert [(line["method"], line["examples"], line["bundle"]) for line in lines(service)] == [
        ("GetExample", ["toy/4"], "f" * 64),
        ("ListSuspects", ["toy/19", "toy/18"], "f" * 64),
    ]


def test_a_group_whose_effect_is_told_is_logged(service: Service) -> None:
    request = pb.EstimateRemovalRequest(query=QUERY, example_ids=["toy/3", "toy/1", "toy/3"])
    caller = replace(ALICE, level=DisclosureLevel.ROUNDED)
    service.worker.handle = echo
    asyncio.run(service.calls.methods["EstimateRemoval"].run(request, CallContext(caller=caller)))
    assert [line["examples"] for line in lines(service)] == [["toy/3", "toy/1"]]


def test_a_full_disk_stops_disclosures_and_no_predictions(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own full device; what was written of a line is taken back, so that the log stays readable."""
    ask(service, "Explain", QUERY)
    log = service.gate.audit_log
    assert log is not None and service.settings.audit_log is not None
    write = os.write

    def half(handle: int, data: bytes) -> int:
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(UnavailableError, match="predictions are answered") as caught:
        ask(service, "Explain", QUERY)
    assert caught.value.reason == "AUDIT_LOG_FAILED"
    monkeypatch.undo()
    full = os.open("/dev/full", os.O_WRONLY)
    held, log._handle = log._handle, full
    monkeypatch.setattr(log, "_reopen_if_moved", lambda: None)
    with pytest.raises(UnavailableError):
        ask(service, "Explain", QUERY)
    service.worker.handle = lambda _: WorkerReply(predict=pb.PredictResponse(request_id="p"))
    assert ask(service, "Predict", pb.PredictRequest(model="toy", encoded_image=IMAGE)).request_id == "p"
    service.worker.handle = explaining
    log._handle = held
    os.close(full)
    ask(service, "Explain", QUERY)  # nothing of the budget of two was used up meanwhile
    assert len(lines(service)) == 2
    with pytest.raises(QuotaError):
        ask(service, "Explain", QUERY)


def test_a_disk_that_hangs_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proponent.gateway.privacy.audit_log._PATIENCE_S", 0.1)
    read, write = os.pipe()
    log = service.gate.audit_log
    assert log is not None
    monkeypatch.setattr(log, "_append", lambda _: os.read(read, 1))
    with pytest.raises(UnavailableError):
        ask(service, "Explain", QUERY)
    os.write(write, b"x")
    os.close(write)
    os.close(read)


def test_parts_are_rotated_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", 100, 2)
    for number in range(7):
        asyncio.run(log.write({"number": number, "text": "x" * 40}))
    assert [record["number"] for record in log.records()] == [4, 5, 6]
    log.close()
    held = {path.name: json.loads(path.read_text())["number"] for path in tmp_path.iterdir()}
    assert held == {"audit": 6, "audit.1": 5, "audit.2": 4}


def test_a_log_that_somebody_moved_is_begun_anew(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", 1 << 20, 2)
    asyncio.run(log.write({"number": 1}))
    (tmp_path / "audit").rename(tmp_path / "moved")
    asyncio.run(log.write({"number": 2}))
    log.close()
    assert [json.loads((tmp_path / name).read_text())["number"] for name in ("moved", "audit")] == [1, 2]


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", 1 << 20, 2)
    with pytest.raises(SpecError, match="another process writes it"):
        AuditLog(tmp_path / "audit", 1 << 20, 2)
    log.close()
    AuditLog(tmp_path / "audit", 1 << 20, 2).close()
    with pytest.raises(SpecError, match="No such file"):
        AuditLog(tmp_path / "nowhere" / "audit", 1 << 20, 2)


def test_budgets_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        with restarted(tmp_path / str(number), path) as service:
            if number < 2:
                ask(service, "Explain", QUERY)
                continue
            with pytest.raises(QuotaError):
                ask(service, "Explain", QUERY)
        path.write_text('{"torn": \n[1]\n{"time": "then"}\n' + path.read_text())
    with restarted(tmp_path / "later", path, caller_window=1e-6) as service:
        ask(service, "Explain", QUERY)


@contextmanager
def restarted(directory: Path, log: Path, **settings: Any) -> Iterator[Service]:
    directory.mkdir()
    service = Service(directory, audit_log=log, **settings)
    service.worker.handle = explaining
    try:
        yield service
    finally:
        service.close()
