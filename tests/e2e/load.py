"""Constant mixed load on a service, through both transports; what every answer said, and of which bundle."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from inputs import GOOD, MODEL
from test_service import details

from proponent.explainer import Explainer
from proponent.gateway.http.reply import to_json
from proponent.gateway.settings import Settings
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Item, Worker

TOP_K = 2
DEADLINE_S = 30
LATE = "DEADLINE_EXCEEDED"
_PAUSE_S = 0.08
_IMAGE = {"image": base64.b64encode(GOOD).decode(), "top_k": TOP_K}
Answers = dict[str, "Answer"]


@dataclass(frozen=True)
class Answer:
    """What one bundle says of the digit: probabilities, and for each measure the proponents with their scores."""

    probabilities: list[float]
    proponents: list[list[tuple[str, float]]]


def answers_of(bundles: list[Path]) -> Answers:
    """What each bundle says when it is asked in this process, by digest."""
    return {path.name: _answer_of(path) for path in bundles}


def _answer_of(bundle: Path) -> Answer:
    request = WorkerRequest(explain=pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=TOP_K))
    [reply] = Worker(Explainer.load(bundle)).handle([Item(request, as_json=False)])
    return _read(to_json(reply.explain))


def _read(explanation: dict[str, Any]) -> Answer:
    results = [[(i["example_id"], i["score"]) for i in r["proponents"]] for r in explanation.get("results", [])]
    return Answer(explanation["prediction"]["probabilities"], results)


class Load:
    """What four callers saw: how many answers of each bundle, refusals that may be, and everything that was wrong.

    At no time more than ``in_flight`` requests are under way, items of a stream and instances of a call included.
    """

    in_flight = 1 + 1 + 3 + Settings.model_fields["max_parts"].default

    def __init__(self, grpc_address: str, http_url: str, expected: Answers, allowed: Collection[str] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._allowed = allowed
        self._expected = expected
        self._grpc = grpc_address
        self._http = http_url
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        callers = [self._by_predict, self._by_explain, self._by_http, self._by_stream]
        threads = [threading.Thread(target=self._repeat, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _repeat(self, caller: Callable[[Any], None]) -> None:
        client = httpx.Client(base_url=self._http, timeout=60, trust_env=False)
        with client, grpc.insecure_channel(self._grpc) as channel:
            clients = client if caller == self._by_http else ExplanationServiceStub(channel)
            while not self._stop.is_set():
                try:
                    caller(clients)
                except Exception as error:
                    self._note_failure(caller.__name__, _reason_of(error), repr(error))

    def _by_predict(self, rpc: ExplanationServiceStub) -> None:
        self._note("Predict", rpc.Predict(pb.PredictRequest(model=MODEL, encoded_image=GOOD), timeout=DEADLINE_S))
        described = rpc.GetModel(pb.GetModelRequest(model=MODEL), timeout=DEADLINE_S).bundle_digest
        suspects = rpc.ListSuspects(pb.ListSuspectsRequest(model=MODEL, limit=1), timeout=DEADLINE_S).bundle_digest
        if not {described, suspects} <= self._expected.keys():
            self.wrong.append(f"GetModel says {described}, ListSuspects {suspects}")
        time.sleep(_PAUSE_S)

    def _by_explain(self, rpc: ExplanationServiceStub) -> None:
        self._note("Explain", rpc.Explain(_request(), timeout=DEADLINE_S))
        time.sleep(_PAUSE_S)

    def _by_stream(self, rpc: ExplanationServiceStub) -> None:
        """One stream for as long as the load lasts."""

        def requests() -> Iterator[pb.StreamExplainRequest]:
            while not self._stop.is_set():
                yield pb.StreamExplainRequest(request=_request())
                time.sleep(_PAUSE_S)

        for answer in rpc.StreamExplain(requests()):
            if answer.WhichOneof("outcome") != "response":
                self._note_failure("StreamExplain", answer.error.reason, str(answer.error))
            else:
                self._note("StreamExplain", answer.response)

    def _by_http(self, http: httpx.Client) -> None:
        """Several instances in one call must all be answered by one bundle."""
        for call in ("predict", "explain"):
            instances = [_IMAGE] * 2 if call == "explain" else [{"image": _IMAGE["image"]}] * 3
            reply = http.post(f"/v1/models/{MODEL}:{call}", json={"instances": instances}).raise_for_status().json()
            for each in reply.get("explanations") or reply["predictions"]:
                if "error" in each:
                    self._note_failure(f"HTTP {call}", each["error"]["reason"], str(each["error"]))
                else:
                    whole = each if call == "explain" else {"prediction": each}
                    self._compare(f"HTTP {call}", reply["bundle_digest"], whole)
            time.sleep(_PAUSE_S)

    def _note_failure(self, what: str, reason: str, error: str) -> None:
        if reason in self._allowed:
            self.refused[reason] += 1
            time.sleep(_PAUSE_S)
        else:
            self.wrong.append(f"{what}: {error}")

    def _note(self, what: str, reply: Any) -> None:
        self._compare(what, reply.bundle_digest, to_json(reply))

    def _compare(self, what: str, digest: str, reply: dict[str, Any]) -> None:
        found, expected = _read(reply), self._expected.get(digest)
        self.counts[digest] += 1
        if expected is None or reply.get("bundle_digest", digest) != digest or not _alike(found, expected):
            self.wrong.append(f"{what} of {digest[:12]}: {found}, expected {expected}")


def _reason_of(error: Exception) -> str:
    """What a refusal says; empty where it says nothing."""
    if isinstance(error, httpx.HTTPStatusError):
        return str(error.response.json()["reason"])
    if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return LATE  # the caller's own clock may end a call before its refusal comes
    has_details = isinstance(error, grpc.RpcError) and "grpc-status-details-bin" in dict(
        error.trailing_metadata() or ()
    )
    return details(error)[0] if has_details else ""


def _request() -> pb.ExplainRequest:
    return pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=TOP_K)


def _alike(found: Answer, expected: Answer) -> bool:
    if found.probabilities != pytest.approx(expected.probabilities, rel=1e-4):
        return False
    pairs = zip(chain(*found.proponents), chain(*expected.proponents), strict=False)
    return all(a[0] == b[0] and a[1] == pytest.approx(b[1], rel=1e-3) for a, b in pairs)
