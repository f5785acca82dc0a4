"""A caller is told so much in a window and no more, whatever call it asks by; and makes so many calls a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway_fakes import Service
from listening import Listening, run
from proponent.errors import QuotaError
from proponent.gateway.auth import Allowance, Caller, Scope
from proponent.gateway.call import CallContext
from proponent.gateway.limits.rate import CallRates
from proponent.gateway.privacy import budget as budgets
from proponent.gateway.privacy.budget import DisclosureBudget
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from tokens import knowing

WINDOW_S = 60.0
QUERY = pb.ExplainRequest(model="toy", encoded_image=b"png")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "alice", **allowance: Any) -> Caller:
    return Caller(name, frozenset(Scope), DisclosureLevel.FULL, Allowance(**allowance))


def names(*ids: str) -> Callable[[WorkerRequest], WorkerReply]:
    """A worker whose explanations name these examples."""
    found = pb.MeasureResult(proponents=[pb.Influence(example_id=each, score=1.0) for each in ids])
    return lambda _: WorkerReply(explain=pb.ExplainResponse(results=[found, found]))


@given(st.lists(st.sets(st.integers(0, 12), max_size=5), max_size=12), st.integers(1, 10))
def test_never_more_different_examples_than_allowed(replies: list[set[int]], most: int) -> None:
    """Against a plain account of what was let through; what was refused counts for nothing."""
    budget, told = DisclosureBudget(WINDOW_S, Clock()), set[int]()
    for reply in replies:
        fits = len(told | reply) <= most
        try:
            budget.disclose(caller(examples=most), "toy", [str(each) for each in reply])
        except QuotaError as error:
            assert not fits and error.reason == "EXAMPLES_SPENT"
        else:
            assert fits
            told |= reply
    assert len(told) <= most


def test_a_budget_is_each_callers_and_each_models_own_and_begins_again() -> None:
    clock = Clock()
    budget = DisclosureBudget(WINDOW_S, clock)
    alice, bob = caller(examples=2, explanations=1), caller("bob", examples=2, explanations=1)
    budget.disclose(alice, "toy", ["a", "b"])
    budget.disclose(alice, "toy", ["b", "a"])
    budget.disclose(bob, "toy", ["c", "d"])
    clock.now += 45
    for model, example in (("toy", "c"), ("other", "a")):
        with pytest.raises(QuotaError, match=r"'alice'.*2 different training examples") as caught:
            budget.disclose(alice, model, [example])
        assert caught.value.retry_after_s == 15
    budget.begin_explanation(alice)
    with pytest.raises(QuotaError, match="1 explanations") as caught:
        budget.begin_explanation(alice)
    assert caught.value.reason == "EXPLANATIONS_SPENT"
    clock.now += 15
    budget.disclose(alice, "toy", ["c"])
    budget.begin_explanation(alice)


def test_a_clock_that_is_set_back_begins_no_new_window() -> None:
    clock = Clock()
    budget = DisclosureBudget(WINDOW_S, clock)
    budget.begin_explanation(caller(explanations=1))
    clock.now -= 500
    with pytest.raises(QuotaError):
        budget.begin_explanation(caller(explanations=1))


def test_accounts_are_bounded_and_never_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MOST_ACCOUNTS", 3)
    clock = Clock()
    budget = DisclosureBudget(WINDOW_S, clock)
    for name in "abc":
        budget.begin_explanation(caller(name, explanations=1))
    with pytest.raises(QuotaError) as caught:
        budget.begin_explanation(caller("d", explanations=1))
    assert (caught.value.reason, caught.value.retry_after_s) == ("BUDGETS_FULL", WINDOW_S)
    with pytest.raises(QuotaError, match="1 explanations"):
        budget.begin_explanation(caller("a", explanations=1))
    clock.now += WINDOW_S
    budget.begin_explanation(caller("d", explanations=1))


EXPLAINING: dict[str, Any] = {
    "Explain": QUERY,
    "ScoreExamples": pb.ScoreExamplesRequest(query=QUERY, example_ids=["toy/1"]),
    "EstimateRemoval": pb.EstimateRemovalRequest(query=QUERY, example_ids=["toy/1"]),
    "FindFlipSet": pb.FindFlipSetRequest(query=QUERY),
}
NAMING: dict[str, Any] = {
    "GetExample": [pb.GetExampleRequest(model="toy", example_id=f"toy/{n}") for n in (4, 5)],
    "ListExamples": [pb.ListExamplesRequest(model="toy", page_size=n) for n in (1, 2)],
    "ListSuspects": [pb.ListSuspectsRequest(model="toy", limit=n) for n in (1, 2)],
    "EstimateRemoval": [pb.EstimateRemovalRequest(query=QUERY, example_ids=[f"toy/{n}"]) for n in (4, 5)],
}


@pytest.fixture
def service(tmp_path: Path) -> Iterable[Service]:
    made = Service(tmp_path, allow_examples=True, caller_explanations=3, caller_examples=2)
    yield made
    made.close()


def ask(service: Service, name: str, request: Any, who: Caller) -> Any:
    return asyncio.run(service.calls.methods[name].run(request, CallContext(caller=who)))


def test_every_call_that_takes_a_gradient_counts_and_no_other(service: Service) -> None:
    who = caller(explanations=len(EXPLAINING))
    for name, request in EXPLAINING.items():
        ask(service, name, request, who)
    for name, request in EXPLAINING.items():
        with pytest.raises(QuotaError):
            ask(service, name, request, who)
    assert len(service.worker.asked) == len(EXPLAINING)
    ask(service, "Predict", pb.PredictRequest(model="toy", encoded_image=b"png"), who)
    ask(service, "GetModel", pb.GetModelRequest(model="toy"), who)


@pytest.mark.parametrize("name", NAMING)
def test_every_call_that_names_examples_counts(service: Service, name: str) -> None:
    first, second = NAMING[name]
    who = caller(examples=1)
    for _ in range(2):
        ask(service, name, first, who)
    with pytest.raises(QuotaError):
        ask(service, name, second, who)


def test_an_explanation_that_came_to_nothing_is_not_counted(service: Service) -> None:
    def broken(_: WorkerRequest) -> WorkerReply:
        raise QuotaError("a worker's own error")

    who = caller(explanations=1, examples=1)
    for handle in (broken, names("a", "b")):
        service.worker.handle = handle
        with pytest.raises(QuotaError):
            ask(service, "Explain", QUERY, who)
    service.worker.handle = names("a")
    assert ask(service, "Explain", QUERY, who).results


def test_labels_name_no_example_and_cost_none(service: Service) -> None:
    service.worker.handle = names("a", "b", "c")
    who = Caller("alice", frozenset(Scope), DisclosureLevel.LABELS, Allowance(examples=1))
    assert len(ask(service, "Explain", QUERY, who).results[0].proponents) == 3


def test_both_transports_say_what_is_spent_and_when_it_begins_again(tmp_path: Path) -> None:
    tokens = knowing(tmp_path / "tokens", {"key": "explain level=full explanations=2", "other": "explain"})

    async def ask_both(transports: Listening) -> None:
        metadata = (("authorization", "Bearer key"),)
        item = pb.StreamExplainRequest(request=QUERY)
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel, transports.client() as client:
            stub = transports.stub(channel)
            stream = [each async for each in stub.StreamExplain(iter([item] * 3), metadata=metadata)]
            assert sorted(each.error.reason for each in stream) == ["", "", "EXPLANATIONS_SPENT"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Explain(QUERY, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
            found = {detail.type_url.rpartition(".")[2]: detail.value for detail in status.details}
            advised = error_details_pb2.RetryInfo.FromString(found["RetryInfo"]).retry_delay.seconds
            assert 3500 < advised <= 3600
            headers = {"content-type": "image/png", "authorization": "Bearer key"}
            refused = await client.post("/v1/models/toy:explain", content=b"png", headers=headers)
            assert (refused.status_code, refused.json()["reason"]) == (429, "EXPLANATIONS_SPENT")
            assert 3500 < int(refused.headers["retry-after"]) <= 3600
            headers["authorization"] = "Bearer other"
            assert (await client.post("/v1/models/toy:explain", content=b"png", headers=headers)).status_code == 200

    run(tmp_path, ask_both, authenticator=tokens, caller_window=3600)


@pytest.mark.parametrize("rate", [0.5, 1.0, 10.0])
def test_calls_a_second(rate: float) -> None:
    clock = Clock()
    rates, who, taken = CallRates(clock), caller(rate=rate), 0
    for _ in range(1000):
        clock.now += 0.05
        try:
            rates.take(who)
            taken += 1
        except QuotaError as error:
            assert error.reason == "RATE_LIMITED" and 0 < error.retry_after_s <= 1 / rate + 1e-9
    assert 0.95 * rate * 50 <= taken <= rate * 50 + max(1, rate)
    rates.take(caller("bob", rate=rate))
    rates.take(caller("anybody"))


def test_a_call_too_many_is_refused_and_a_part_waits(tmp_path: Path) -> None:
    tokens = knowing(tmp_path / "tokens", {"key": "predict,explain level=full rate=20"})

    async def ask_both(transports: Listening) -> None:
        metadata = (("authorization", "Bearer key"),)
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            stub = transports.stub(channel)
            item = pb.StreamExplainRequest(request=QUERY)
            stream = [each async for each in stub.StreamExplain(iter([item] * 30), metadata=metadata)]
            assert [each.error.reason for each in stream] == [""] * 30
            request = pb.PredictRequest(model="toy", encoded_image=b"png")
            calls = (stub.Predict(request, metadata=metadata) for _ in range(40))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        assert refused and all(each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for each in refused)
        assert all("20 calls a second" in str(each.details()) for each in refused)

    run(tmp_path, ask_both, authenticator=tokens)
