"""Computations stop at the deadline or when the last caller leaves, and only then; others on the way are unharmed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import tiny
from proponent.bounds.cancellation import Token, always, any_of, checkpoint, scope, until
from proponent.bounds.liveness import TicketIssuer
from proponent.errors import DeadlineError
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import Diversity, Estimator, ExplainOptions, Redundancy, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Item, Worker

LATE = until(0)


class Countdown:
    """A token that fails at its nth checkpoint."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise DeadlineError("stop")


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    root = tmp_path_factory.mktemp("cancellation")
    spec = load_spec(tiny.project(root))
    return Explainer.load(rebuild(spec, Store(root / "store"), RebuildOptions(quiet=True)))


def value(number: int = 0) -> torch.Tensor:
    return tiny.pictures(9, seed=5)[0][number].float()[None] / 255


def test_a_token_holds_until_its_time_and_while_the_result_is_wanted() -> None:
    later = time.monotonic_ns() + 10**12
    until(later)()
    with pytest.raises(DeadlineError, match="deadline passed"):
        until(time.monotonic_ns())()
    with pytest.raises(DeadlineError) as caught:
        until(later, lambda: False)()
    assert caught.value.reason == "CALL_ABANDONED"


def test_shared_work_goes_on_for_the_last_who_waits() -> None:
    any_of([LATE, always])()
    any_of([])()
    with pytest.raises(DeadlineError):
        any_of([LATE, LATE])()


def test_a_checkpoint_obeys_the_innermost_scope() -> None:
    checkpoint()
    with scope(LATE):
        with scope(always):
            checkpoint()
        with pytest.raises(DeadlineError):
            checkpoint()
    checkpoint()


def _explain(redundancy: Redundancy, whole: bool) -> Callable[[Explainer], object]:
    chosen = Diversity(redundancy=redundancy, gamma=1.0, candidates=30, bandwidth=None, whole_dataset=whole)
    return lambda explainer: explainer.explain([value()], [ExplainOptions(top_k=9, diversity=chosen)])


LONG: dict[str, Callable[[Explainer], object]] = {
    "sum": _explain(Redundancy.SUM, whole=False),
    "discrepancy": _explain(Redundancy.MMD, whole=True),
    "facility location": _explain(Redundancy.FACILITY_LOCATION, whole=True),
    "removal": lambda e: e.estimate_removal(value(), Target(), ["toy/1", "toy/2"]),
    "second order": lambda e: e.estimate_removal(
        value(), Target(), ["toy/1", "toy/2"], estimator=Estimator.SECOND_ORDER
    ),
    "flip set": lambda e: e.find_flip_set(value()),
    "scores": lambda e: e.score_examples(value(), ["toy/1"], ExplainOptions(top_k=1)),
}


@pytest.mark.parametrize("name", LONG)
def test_every_long_computation_can_be_stopped_on_its_way(explainer: Explainer, name: str) -> None:
    """At its first, its middle and its last checkpoint; it then still works from start to end."""
    LONG[name](explainer)  # what is found once for all calls is found here
    counted = Countdown(10**9)
    with scope(counted):
        whole = LONG[name](explainer)
    passed = 10**9 - counted.left
    assert passed >= 2
    for stop in {0, passed // 2, passed - 1}:
        with scope(Countdown(stop)), pytest.raises(DeadlineError):
            LONG[name](explainer)
    assert type(LONG[name](explainer)) is type(whole)


def test_one_late_selection_costs_its_own_answer_alone(explainer: Explainer) -> None:
    chosen = Diversity(
        redundancy=Redundancy.FACILITY_LOCATION, gamma=1.0, candidates=30, bandwidth=None, whole_dataset=True
    )
    options = [ExplainOptions(top_k=5, diversity=chosen)] * 3
    found = explainer.explain([value(n) for n in range(3)], options, [always, Countdown(1), always])
    assert [isinstance(answer, DeadlineError) for answer in found] == [False, True, False]


# Behind messages --------------------------------------------------------------------------------------------


@pytest.fixture
def office(tmp_path: Path) -> TicketIssuer:
    return TicketIssuer.create(tmp_path / "liveness", 4)


def items(**fields: int) -> Iterator[Item]:
    """One item of every call."""
    query = pb.ExplainRequest(encoded_image=b"no image")
    for call in (
        {"predict": pb.PredictRequest(encoded_image=b"no image")},
        {"explain": query},
        {"score": pb.ScoreExamplesRequest(query=query)},
        {"removal": pb.EstimateRemovalRequest(query=query)},
        {"flip": pb.FindFlipSetRequest(query=query)},
    ):
        yield Item(WorkerRequest(**call, **fields), as_json=False)  # type: ignore[arg-type]


def reasons(worker: Worker, asked: list[Item]) -> set[str]:
    return {reply.error.reason for reply in worker.handle(asked)}


def test_a_late_item_is_dropped_before_it_is_read(explainer: Explainer) -> None:
    worker = Worker(explainer)
    later = time.monotonic_ns() + 10**12
    assert reasons(worker, [*items(deadline_ns=1)]) == {"DEADLINE_EXCEEDED"}
    assert reasons(worker, [*items(deadline_ns=later)]) == {"IMAGE_UNREADABLE"} == reasons(worker, [*items()])
    mixed = [*items(deadline_ns=1), *items(deadline_ns=later)]
    assert [reply.error.reason for reply in worker.handle(mixed)] == [
        *["DEADLINE_EXCEEDED"] * 5,
        *["IMAGE_UNREADABLE"] * 5,
    ]


def test_an_item_that_nobody_waits_for_is_dropped(explainer: Explainer, office: TicketIssuer, tmp_path: Path) -> None:
    from proponent.bounds.liveness import TicketTable

    worker = Worker(explainer, TicketTable.open(tmp_path / "liveness"))
    later, ticket = time.monotonic_ns() + 10**12, office.issue()
    assert reasons(worker, [*items(deadline_ns=later, ticket=ticket)]) == {"IMAGE_UNREADABLE"}
    office.withdraw(ticket)
    assert reasons(worker, [*items(deadline_ns=later, ticket=ticket)]) == {"CALL_ABANDONED"}


def test_items_that_become_late_while_others_are_read_never_reach_the_model(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    monkeypatch.setattr(explainer, "explain", lambda inputs, *_: forwards.append(len(inputs)))
    monkeypatch.setattr(explainer, "predict", lambda inputs: forwards.append(len(inputs)))
    tensor = pb.Tensor(shape=[1, 6, 6], dtype="float32", data=bytes(144))

    def late_once_read(item: Item) -> Token:
        return Countdown(1)

    worker = Worker(explainer)
    monkeypatch.setattr(worker, "_token", late_once_read)
    asked = [
        Item(WorkerRequest(explain=pb.ExplainRequest(tensor=tensor)), as_json=False),
        Item(WorkerRequest(predict=pb.PredictRequest(tensor=tensor)), as_json=False),
    ]
    assert reasons(worker, asked) == {"DEADLINE_EXCEEDED"} and not forwards
