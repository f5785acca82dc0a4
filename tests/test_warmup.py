"""Before a worker is ready it has explained, and knows how many threads are fastest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from proponent.cuda_graphs import WAITED
from proponent.errors import InvalidInputError
from proponent.explainer.query import CHECKED
from proponent.signature import InputSignature
from proponent.worker import warmup
from proponent.worker.warmup import warmed_up


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Timed:
    """An explainer that takes as long as it is told, by the number of threads; ``error`` is raised instead."""

    def __init__(self, *, one: float, two: float, device: str = "cpu", error: Exception | None = None) -> None:
        self.signature = InputSignature((1, 2, 2), "L")
        self.manifest = SimpleNamespace(probes={})
        self.classifier = SimpleNamespace(device=torch.device(device))
        self.calls, self.values = 0, list[torch.Tensor]()
        self._seconds = {1: one, 2: two}
        self._error = error

    def rehearse(self, value: torch.Tensor) -> None:
        assert tuple(value.shape) == (1, 2, 2)
        self.calls += 1
        self.values.append(value)
        time.sleep(self._seconds[torch.get_num_threads()])
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("one", "two", "chosen"),
    [(0.005, 0.05, 1), (0.05, 0.005, 2), (0.05, 0.049, 1)],
    ids=["small models", "large models", "no gain"],
)
def test_more_threads_are_taken_where_they_gain(one: float, two: float, chosen: int) -> None:
    timed = Timed(one=one, two=two)
    assert warmed_up(timed) is timed  # type: ignore[arg-type, comparison-overlap]
    assert torch.get_num_threads() == chosen and timed.calls == 11


def test_a_slow_model_is_asked_few_times() -> None:
    timed = Timed(one=1.2, two=0.9)
    warmed_up(timed)  # type: ignore[arg-type]
    assert torch.get_num_threads() == 2 and timed.calls == 3


def test_an_accelerator_needs_no_choice_and_answers_until_its_graphs_are_recorded() -> None:
    timed = Timed(one=0, two=0, device="meta")
    warmed_up(timed)  # type: ignore[arg-type]
    assert torch.get_num_threads() == 2
    assert timed.calls == 1 + warmup._UNTIL_REPLAYED >= 1 + WAITED + CHECKED


def test_an_accelerator_answers_for_different_inputs_where_some_can_be_made_up() -> None:
    """A recording is compared with the model on arguments that differ."""
    timed = Timed(one=0, two=0, device="meta")
    timed.manifest.probes = {"low": [0.0], "high": [1.0]}
    warmed_up(timed)  # type: ignore[arg-type]
    assert timed.calls >= 1 + WAITED + CHECKED
    assert len({tuple(value.flatten().tolist()) for value in timed.values}) == timed.calls


def test_a_model_that_takes_no_neutral_input_is_served_all_the_same() -> None:
    timed = Timed(one=0, two=0, error=InvalidInputError("no zeros"))
    assert warmed_up(timed) is timed  # type: ignore[arg-type, comparison-overlap]
    assert torch.get_num_threads() == 2
