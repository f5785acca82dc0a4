"""Functions that are recorded as CUDA graphs give what they give when they are called; runs where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import tiny
from proponent.cuda_graphs import LARGEST, WAITED, Replay
from proponent.explainer import Explainer
from proponent.explainer.query import CHECKED
from proponent.index.store import Store
from proponent.options import ExplainOptions, Filter, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation
from proponent.spec import load_spec

CUDA = torch.device("cuda")
T = TypeVar("T", bound=Callable[..., Any])


def on_a_gpu(test: T) -> T:
    """Marks a test that needs one."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    marked: T = pytest.mark.cuda(skip(test))
    return marked


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.calls, self._function = 0, function

    def __call__(self, value: Tensor) -> tuple[Tensor]:
        self.calls += 1
        return (self._function(value),)


def drawn(count: int, seed: int) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).to(CUDA)


def scores(explanation: Explanation) -> list[float]:
    return [item.score for result in explanation.results for item in [*result.proponents, *result.opponents]]


def test_there_is_nothing_to_record_on_a_processor() -> None:
    assert Replay.on(torch.device("cpu")) is None


@on_a_gpu
def test_a_function_is_recorded_for_each_shape_and_not_called_any_more() -> None:
    replay = Replay(CUDA, checked=1)
    for count in (1, 3, LARGEST):
        function = Counted(lambda value: (value @ value.mT).softmax(dim=1))
        results = []
        for seed in range(6):
            value = drawn(count, seed)
            [found] = replay("products", function, value)
            results.append((found, (value @ value.mT).softmax(dim=1)))
        assert function.calls == WAITED + 1 + 1, "called, recorded, and compared once"
        for found, expected in results:  # a result is the caller's own: later calls leave it alone
            torch.testing.assert_close(found, expected)


@on_a_gpu
def test_large_batches_are_never_recorded() -> None:
    replay, function = Replay(CUDA), Counted(torch.exp)
    for seed in range(5):
        replay("exp", function, drawn(LARGEST + 1, seed))
    assert function.calls == 5


@on_a_gpu
def test_what_reads_numbers_is_called_every_time() -> None:
    replay, function = Replay(CUDA, checked=1), Counted(lambda value: value if bool(value.sum() > 0) else -value)
    for seed in range(6):
        value = drawn(2, seed)
        [found] = replay("sign", function, value)
        assert torch.equal(found, value if float(value.sum()) > 0 else -value)
    assert function.calls == 6 + 1, "each time, and once more to be recorded"


@on_a_gpu
def test_what_depends_on_more_than_its_arguments_is_given_up() -> None:
    replay, factor = Replay(CUDA, checked=1), 1

    def function(value: Tensor) -> tuple[Tensor]:
        return (value * factor,)

    for seed in range(WAITED + 4):
        factor = 1 if seed < WAITED else seed
        value = drawn(2, seed)
        [found] = replay("factor", function, value)
        assert torch.equal(found, value * factor)


@on_a_gpu
def test_answers_of_recorded_models_are_those_of_the_processor(tmp_path: Path) -> None:
    """Of batches of several sizes in turn, with contrasts and filters, before and after each is recorded."""
    path = tiny.project(tmp_path / "project", model="grouped", curvature={"kind": "ekfac", "embedding_size": 8})
    bundle = rebuild(load_spec(path), Store(tmp_path / "store"), RebuildOptions(quiet=True))
    there, here = Explainer.load(bundle, device=CUDA), Explainer.load(bundle)
    options = [
        ExplainOptions(top_k=3),
        ExplainOptions(top_k=2, target=Target(class_id=1)),
        ExplainOptions(top_k=4, target=Target(class_id=1, against=2), filter=Filter(allow=frozenset({0, 1}))),
    ]
    for turn in range(WAITED + CHECKED + 2):
        for count in (1, 2, 3):
            inputs = tiny.inputs(3 + turn)[turn : turn + count]
            answers = [each.explain(inputs, options[:count]) for each in (there, here)]
            for found, expected in zip(*answers, strict=True):
                assert isinstance(found, Explanation) and isinstance(expected, Explanation)
                assert found.prediction.class_id == expected.prediction.class_id
                assert scores(found) == pytest.approx(scores(expected), rel=1e-3, abs=1e-9)
