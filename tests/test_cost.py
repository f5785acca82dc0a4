"""No call may cost more than its bound: what is refused, what it says, and that what it says would fit does."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from proponent.bounds.cost import (
    KERNEL_BYTES,
    MAX_CANDIDATES,
    MULTIPLY_ADDS,
    STREAMED_MULTIPLY_ADDS,
    check_cost,
    diversity_cost,
    flip_cost,
    lists_cost,
    pool_size,
    removal_cost,
    scores_cost,
)
from proponent.errors import InvalidInputError
from proponent.gateway.limits.call_cost import check_call_cost
from proponent.gateway.settings import Settings
from proponent.index.bundle import Manifest
from proponent.options import Diversity, Redundancy
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest

LIMIT_S = Settings().max_call_cost


@dataclass(frozen=True)
class Size:
    train_size: int
    embedding_size: int
    row_groups: int = 0
    query_size: int = 0
    teachers: int = 0


DIGITS, MNIST, MILLION = Size(1437, 650), Size(60_000, 7850), Size(1_000_000, 768)
LARGE = Size(1_000_000, 20_000)
SIZES = st.builds(Size, st.integers(2, 10**7), st.integers(16, 10_000)) | st.builds(
    Size, st.integers(2, 10**7), st.integers(16, 768), st.integers(2, 16), st.integers(769, 2304), st.integers(1, 5)
)
DIVERSITIES = st.builds(
    Diversity,
    redundancy=st.sampled_from(Redundancy),
    candidates=st.integers(1, 2**32 - 1),
    max_influence_loss=st.none() | st.just(0.1),
    whole_dataset=st.booleans(),
)


def manifest(size: Size) -> Manifest:
    return replace(tiny.manifest(), **vars(size))


def refusal(size: Size, **call: object) -> InvalidInputError | None:
    """What a gateway says to a call of a model of this size, with its default bound."""
    try:
        check_call_cost(WorkerRequest(**call), manifest(size), LIMIT_S)  # type: ignore[arg-type]
    except InvalidInputError as error:
        return error
    return None


def explained(top_k: int = 10, **diversity: object) -> dict[str, pb.ExplainRequest]:
    return {"explain": pb.ExplainRequest(top_k=top_k, diversity=pb.Diversity(**diversity))}  # type: ignore[arg-type]


@given(SIZES, DIVERSITIES, st.integers(1, 10**6), st.integers(1, 3))
def test_a_larger_call_never_costs_less(size: Size, diversity: Diversity, count: int, measures: int) -> None:
    for cost in (
        lambda n: diversity_cost(size, diversity, n, measures),
        lambda n: diversity_cost(size, replace(diversity, candidates=n), 5, measures),
        lambda n: flip_cost(size, n),
        lambda n: removal_cost(size, n, second_order=True),
        lambda n: removal_cost(size, n, second_order=False),
        lambda n: scores_cost(size, n, measures),
        lambda n: lists_cost(size, n, measures),
    ):
        less, more = cost(count), cost(2 * count)
        assert less.seconds <= more.seconds * (1 + 1e-12) and less.kernel_bytes <= more.kernel_bytes


@given(SIZES, DIVERSITIES, st.integers(1, 10**5))
def test_what_is_said_to_fit_fits_and_one_more_does_not(size: Size, diversity: Diversity, asked: int) -> None:
    def cost(n: int) -> object:
        return diversity_cost(size, replace(diversity, candidates=n), 1, 3)

    try:
        check_cost(cost, asked, "diversity.candidates", LIMIT_S)  # type: ignore[arg-type]
    except InvalidInputError as error:
        assert (error.field, error.reason) == ("diversity.candidates", "COST_TOO_LARGE")
        assert f"has value {asked}" in error.message and f"at most {LIMIT_S:.1f} s" in error.message
        found = re.search(r"a candidates of (\d+) would fit", error.message)
        fitting = int(found[1]) if found else 0
        if fitting:
            check_cost(cost, fitting, "diversity.candidates", LIMIT_S)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            check_cost(cost, fitting + 1, "diversity.candidates", LIMIT_S)  # type: ignore[arg-type]
    else:
        held = diversity_cost(size, replace(diversity, candidates=asked), 1, 3)
        assert held.kernel_bytes <= KERNEL_BYTES and held.seconds <= LIMIT_S


@pytest.mark.parametrize("size", [DIGITS, MNIST])
def test_what_callers_usually_ask_for_is_allowed(size: Size) -> None:
    for redundancy in pb.Redundancy.values():
        assert refusal(size, **explained(redundancy=redundancy)) is None
    assert refusal(size, flip=pb.FindFlipSetRequest()) is None
    assert refusal(size, removal=pb.EstimateRemovalRequest(example_ids=["x"] * 500, second_order=True)) is None
    assert refusal(size, score=pb.ScoreExamplesRequest(example_ids=["x"] * 10_000)) is None
    assert refusal(size, explain=pb.ExplainRequest(top_k=10_000)) is None
    assert refusal(size, predict=pb.PredictRequest()) is None


def test_the_call_that_took_the_service_down_is_bounded() -> None:
    """On digits it is allowed now that it is cheap; over a million examples it names what would fit."""
    asked = {"top_k": 200, "redundancy": pb.REDUNDANCY_FACILITY_LOCATION, "whole_dataset": True}
    assert refusal(DIGITS, **explained(**asked)) is None
    found = refusal(MILLION, **explained(**asked))
    assert found is not None and found.reason == "COST_TOO_LARGE"
    assert found.field == "diversity.candidates" and "MiB" in found.message


@pytest.mark.parametrize(
    ("size", "call", "field"),
    [
        (MNIST, explained(top_k=60_000, redundancy=pb.REDUNDANCY_MMD), "top_k"),
        (LARGE, {"flip": pb.FindFlipSetRequest()}, "max_size"),
        (MNIST, {"flip": pb.FindFlipSetRequest(max_size=60_000)}, "max_size"),
        (
            LARGE,
            {"removal": pb.EstimateRemovalRequest(example_ids=["x"] * 100_000, second_order=True)},
            "example_ids",
        ),
        (
            LARGE,
            {"removal": pb.EstimateRemovalRequest(example_ids=["x"] * 100_000, estimator=pb.ESTIMATOR_SECOND_ORDER)},
            "example_ids",
        ),
        (MILLION, {"explain": pb.ExplainRequest(top_k=500_000)}, "top_k"),
    ],
)
def test_each_kind_of_call_is_refused_by_the_field_that_costs(
    size: Size, call: dict[str, object], field: str
) -> None:
    found = refusal(size, **call)
    assert found is not None
    assert (found.field, found.reason) == (field, "COST_TOO_LARGE")
    assert "would fit" in found.message


def test_coded_rows_are_charged_for_what_makes_vectors_of_them() -> None:
    """Each row is a vector of W numbers after K x W multiply-adds, a query is shortened once for each group."""
    coded = Size(60_000, 256, 10, 2304, 5)
    plain, lift = Size(60_000, 2304, teachers=5), 256 * 2304 / MULTIPLY_ADDS
    pool = Diversity(candidates=1000, redundancy=Redundancy.MMD, whole_dataset=True)
    for cost, rows in (
        (lambda size: removal_cost(size, 5000, second_order=False), 5000),
        (lambda size: flip_cost(size, 300), 12 * 300 + 60_000),
        (lambda size: diversity_cost(size, pool, 5, 1), 2 * 61_000),
    ):
        assert cost(coded).seconds - cost(plain).seconds == pytest.approx(rows * lift)
    shortened = 10 * 256 * 2304 / STREAMED_MULTIPLY_ADDS
    assert lists_cost(coded, 0, 3).seconds == pytest.approx(shortened)
    assert scores_cost(coded, 0, 3).seconds == pytest.approx(shortened)


def test_a_first_order_estimate_of_the_same_group_is_allowed() -> None:
    for estimator in (pb.ESTIMATOR_UNSPECIFIED, pb.ESTIMATOR_FIRST_ORDER, pb.ESTIMATOR_INFLUENCE_SUM):
        group = pb.EstimateRemovalRequest(example_ids=["x"] * 100_000, estimator=estimator)
        assert refusal(LARGE, removal=group) is None


def test_pools_are_capped_but_never_shorter_than_the_list() -> None:
    assert pool_size(None, 7) == 7
    assert pool_size(Diversity(candidates=10**6), 7) == MAX_CANDIDATES
    assert pool_size(Diversity(candidates=3), 7) == 7
