"""Functions recorded as CUDA graphs give what they give when they are called: on a GPU, and on a stand-in for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny
from proponent import cuda_graphs
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import CrossEntropy
from proponent.classifier import Classifier
from proponent.cuda_graphs import LARGEST, MOST, SHARE, WAITED, Replay
from proponent.errors import InvalidInputError
from proponent.explainer import Explainer
from proponent.explainer.query import CHECKED, EmbeddedQuery, QueryEmbedder
from proponent.index.store import Store
from proponent.options import ExplainOptions, Filter, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation
from proponent.spec import ModelSpec, load_spec
from proponent.stages import Stopwatch
from stand_in_graphs import StandIn, stand_in

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU, or the processor in its place."""
    if request.param == "cuda":
        return CUDA
    stand_in(monkeypatch)
    return CPU


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """What the stand-in sees."""
    return stand_in(monkeypatch)


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.calls, self._function = 0, function

    def __call__(self, value: Tensor) -> tuple[Tensor]:
        self.calls += 1
        return (self._function(value),)


def drawn(count: int, seed: int, device: torch.device = CPU) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).to(device)


def scores(explanation: Explanation) -> list[float]:
    return [item.score for result in explanation.results for item in [*result.proponents, *result.opponents]]


def test_there_is_nothing_to_record_on_a_processor() -> None:
    assert Replay.on(CPU) is None


def test_a_function_is_recorded_for_each_shape_and_not_called_any_more(gpu: torch.device) -> None:
    replay = Replay(gpu, checked=1)
    for count in (1, 3, LARGEST):
        function = Counted(lambda value: (value @ value.mT).softmax(dim=1))
        results = []
        for seed in range(6):
            value = drawn(count, seed, gpu)
            [found] = replay("products", function, value)
            results.append((found, (value @ value.mT).softmax(dim=1)))
        assert function.calls == WAITED + 1 + 1, "called, recorded, and compared once"
        for found, expected in results:  # a result is the caller's own: later calls leave it alone
            torch.testing.assert_close(found, expected)


def test_large_batches_are_never_recorded(gpu: torch.device) -> None:
    replay, function = Replay(gpu), Counted(torch.exp)
    for seed in range(5):
        replay("exp", function, drawn(LARGEST + 1, seed, gpu))
    assert function.calls == 5


def test_after_what_reads_numbers_nothing_is_recorded_any_more(gpu: torch.device) -> None:
    """It would read them in every shape; what was recorded before it stays."""
    replay = Replay(gpu, checked=1)
    good, reads = Counted(torch.exp), Counted(lambda value: value if bool(value.sum() > 0) else -value)
    for seed in range(WAITED):
        replay("exp", good, drawn(2, seed, gpu))
    for count, seed in itertools.product((2, 3), range(5)):
        value = drawn(count, seed, gpu)
        [found] = replay("sign", reads, value)
        assert torch.equal(found, value if float(value.sum()) > 0 else -value)
    assert reads.calls == 2 * 5 + 1, "each time, and once more to be recorded"
    for seed in range(3):
        [found] = replay("exp", good, value := drawn(2, seed + 9, gpu))
        torch.testing.assert_close(found, value.exp())
    assert good.calls == WAITED + 1 + 1


def test_a_recording_that_fails_leaves_stream_and_allocator_as_they_were(seen: StandIn) -> None:
    replay = Replay(CPU)
    for seed in range(WAITED):
        replay("sum", lambda value: (value * float(value.sum()),), drawn(2, seed))
    assert (seen.recordings, seen.current, seen.pools) == (1, "default", [])


@pytest.mark.cuda
@NO_GPU
def test_after_a_recording_that_fails_the_gpu_gives_memory_back() -> None:
    replay, before = Replay(CUDA), torch.cuda.current_stream()
    for seed in range(WAITED):
        replay("sum", lambda value: (value * float(value.sum()),), drawn(2, seed, CUDA))
    assert torch.cuda.current_stream() == before
    large = torch.empty(1 << 28, dtype=torch.uint8, device=CUDA)
    reserved = torch.cuda.memory_reserved()
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - (1 << 28)
    assert torch.equal(torch.ones(3, device=CUDA).sum().cpu(), torch.tensor(3.0))


def test_what_depends_on_more_than_its_arguments_is_given_up(gpu: torch.device) -> None:
    replay, factor = Replay(gpu, checked=1), 1

    def function(value: Tensor) -> tuple[Tensor]:
        return (value * factor,)

    for seed in range(WAITED + 4):
        factor = 1 if seed < WAITED else seed
        value = drawn(2, seed, gpu)
        [found] = replay("factor", function, value)
        assert torch.equal(found, value * factor)


def test_comparisons_on_the_same_arguments_prove_nothing(gpu: torch.device) -> None:
    """As those of a warm-up are: here the recording holds a number that the arguments decide."""
    replay, factor = Replay(gpu, checked=2), 1.0

    def function(value: Tensor) -> tuple[Tensor]:
        return (value * factor,)

    for seed in (*[0] * (WAITED + 5), 1, 2):
        value = drawn(2, seed, gpu)
        factor = float(value.sum().cpu())
        [found] = replay("factor", function, value)
        assert torch.equal(found, value * factor)


def test_a_difference_ends_all_recordings(gpu: torch.device) -> None:
    replay, honest = Replay(gpu, checked=1), Counted(torch.exp)
    for seed in range(WAITED + 2):
        replay("exp", honest, drawn(2, seed, gpu))
    assert honest.calls == WAITED + 2, "called, recorded, compared, replayed"
    test = iter(range(99))
    for seed in range(WAITED + 1):
        replay("counter", lambda value: (value * next(test),), drawn(2, seed, gpu))
    replay("exp", honest, drawn(2, 7, gpu))
    assert honest.calls == WAITED + 3


def test_a_recording_made_in_inference_mode_is_replayed_outside_of_it(gpu: torch.device) -> None:
    replay = Replay(gpu, checked=1)
    with torch.inference_mode():
        for seed in range(WAITED):
            replay("exp", lambda value: (value.exp(),), drawn(2, seed, gpu))
    for seed in range(3):
        [found] = replay("exp", lambda value: (value.exp(),), value := drawn(2, seed + 5, gpu))
        torch.testing.assert_close(found, value.exp())


def test_recordings_are_made_on_the_gpu_of_their_tensors(seen: StandIn) -> None:
    """And not on the one that is current: there the graph would be empty, and each answer that of the first."""
    second = torch.device("cuda", 1)
    replay = Replay(second)
    for seed in range(WAITED):
        replay("exp", lambda value: (value.exp(),), drawn(2, seed))
    assert (seen.streams, seen.devices, seen.device) == ([second], [second], 0)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device on this machine")
def test_a_second_gpu_replays_what_it_computes() -> None:
    device = torch.device("cuda", 1)
    replay, function = Replay(device), Counted(torch.exp)
    for seed in range(6):
        [found] = replay("exp", function, value := drawn(2, seed, device))
        torch.testing.assert_close(found, value.exp())
    assert function.calls == WAITED + 1 and torch.cuda.current_device() == 0


def test_all_recordings_together_have_a_part_of_the_memory(seen: StandIn) -> None:
    """What one takes on the way all share; what it keeps, arguments and results, is its own."""
    kept = 2 * drawn(2, 0).nbytes
    seen.taken = 1000
    seen.total_memory = int((2 * kept + seen.taken) / SHARE)
    replay = Replay(CPU)
    for key, seed in itertools.product(range(4), range(WAITED + 1)):
        replay(key, lambda value: (value.exp(),), drawn(2, seed))
    assert seen.recordings == 2


def test_shapes_that_were_called_once_make_room_for_others(seen: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST", most := 5)
    assert most < MOST
    replay, function = Replay(CPU), Counted(torch.exp)
    for key in range(3 * most):
        replay(key, Counted(torch.exp), drawn(2, key))
    for key, seed in itertools.product("abcdef", range(WAITED + 1)):
        replay(key, function, drawn(2, seed))
    assert seen.recordings == most and len(replay._shapes) == most


class LongerOnes(nn.Module):
    """Does with longer sequences what hooks do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.mean(dim=1))
        if x.shape[1] > 3:
            h = h + F.linear(x[:, 0], self.first.weight)
        found: Tensor = self.last(h.tanh())
        return found


class Flat:
    """All numbers of the gradients."""

    def embed(self, gradients: LayerGradients) -> Tensor:
        return flat_gradients(gradients)


def embedder_of(model: nn.Module, replay: Replay | None = None) -> QueryEmbedder:
    spec = ModelSpec.model_construct(class_names=["a", "b", "c"])
    classifier = Classifier(spec, model, CrossEntropy(), lambda value: value, CPU, "", {})
    found = QueryEmbedder(classifier, Flat(), find_layers(model))
    found._replay = replay
    return found


def test_layers_used_as_hooks_do_not_see_are_refused_however_often(seen: StandIn) -> None:
    """A replay calls no hooks, and would answer; inputs that use the layers otherwise are answered by it."""
    torch.manual_seed(0)
    model = LongerOnes().eval()
    called, replayed = embedder_of(model), embedder_of(model, Replay(CPU, checked=CHECKED))
    for seed in range(WAITED + CHECKED + 2):
        inputs = list(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)))
        targets = [Target(), Target(class_id=1, against=2)]
        pairs = zip(*(each.embed(inputs, targets, Stopwatch()) for each in (called, replayed)), strict=True)
        for expected, found in pairs:
            assert isinstance(expected, EmbeddedQuery) and isinstance(found, EmbeddedQuery)
            torch.testing.assert_close(found.direction, expected.direction)
            assert replace(found, direction=expected.direction) == expected
        with pytest.raises(InvalidInputError, match="uses its layer 'first' otherwise"):
            replayed.embed([torch.cat(inputs)], [Target()], Stopwatch())
    [shape] = [each for each in replayed._replay._shapes.values() if each.recording]  # type: ignore[union-attr]
    assert not shape.unchecked and seen.recordings == 1


@pytest.mark.cuda
@NO_GPU
def test_answers_of_recorded_models_are_those_of_the_processor(
    tmp_path: Path,
) -> None:
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
