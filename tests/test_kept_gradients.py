"""What one pass keeps for the next decides how long a rebuild takes, and no bit of what it gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases
import tiny
from proponent.attribution.curvature.rotation import DenseRotated, OuterRotated, rotated
from proponent.attribution.gradients import layer_gradients
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.formed import FormedGradient, least_bytes, smallest
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import Layers, find_layers
from proponent.attribution.gradients.scaling import ScaledGradient
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.rebuild import batching, compression, joint_sample, joint_stage, kept_gradients
from proponent.rebuild.batching import Batching
from proponent.rebuild.kept_gradients import KeptGradients, Labelled, bytes_of
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import Batch
from proponent.spec import load_spec
from test_rebuild import Rows, build

CHUNK = 16
ALL, FIRST = 3, 1
"""Blocks of all examples, 40 by 16, and of those that subspaces are fitted to."""
SPARED: dict[str, tuple[dict[str, Any], int]] = {
    "ekfac": ({"model": "grouped", "curvature": {"kind": "ekfac", "embedding_size": 25}}, 2 * ALL + FIRST),
    "kfac": ({"model": "grouped", "curvature": {"kind": "kfac", "embedding_size": 25}}, ALL + FIRST),
    "several backwards": ({"model": "logistic", "curvature": {"kind": "ekfac", "draws": 2}}, 0),
    "a sample": ({"model": "grouped", "curvature": {"kind": "ekfac", "fisher": "empirical", "fit_examples": 20}}, 2),
    "transformer": ({"model": "transformer", "curvature": {"kind": "ekfac"}}, 2 * ALL + FIRST),
}
"""Projects, and the forwards that are spared where all gradients are kept."""


def _forwards(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each forward."""
    seen: list[None] = []
    forward = CaptureSession.forward

    def counted(session: CaptureSession, inputs: Any) -> Tensor:
        seen.append(None)
        return forward(session, inputs)

    monkeypatch.setattr(CaptureSession, "forward", counted)
    return seen


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", SPARED)
def test_a_bundle_is_the_same_bit_by_bit_whatever_is_kept(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, spared = SPARED[case]
    monkeypatch.setattr(batching, "CHUNK", CHUNK)
    monkeypatch.setattr(joint_sample, "MOMENT_EXAMPLES", CHUNK)
    spec = load_spec(tiny.project(tmp_path, expected_accuracy=0, **keys))
    forwards, taken, found = _forwards(monkeypatch), {}, {}
    rooms: dict[str, Iterator[int]] = {"nothing": itertools.repeat(0), "all": itertools.repeat(1 << 50)}
    if case == "ekfac":
        rooms["some"] = itertools.cycle([1 << 50, 1 << 50, 0, 1 << 50, 0])
    for name, free in rooms.items():
        monkeypatch.setattr(kept_gradients, "available_bytes", lambda free=free: next(free))
        before = len(forwards)
        bundle = rebuild(spec, Store(tmp_path / name), RebuildOptions(quiet=True))
        taken[name], found[name] = len(forwards) - before, read_manifest(bundle).files
    assert all(files == found["nothing"] for files in found.values())
    assert taken["nothing"] - taken["all"] == spared
    if "some" in taken:
        assert taken["all"] < taken["some"] < taken["nothing"]


def test_rows_are_those_of_their_examples_in_whatever_order_they_were_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "CHUNK", CHUNK)
    monkeypatch.setattr(joint_sample, "MOMENT_EXAMPLES", CHUNK)
    path = tiny.project(tmp_path, **SPARED["ekfac"][0])
    found = Rows.of(build(path, tmp_path / "in order of the passes"))
    for module in (joint_sample, joint_stage, compression):
        monkeypatch.setattr(module, "row_order", lambda context: range(len(context.data)))
    expected = Rows.of(build(path, tmp_path / "in order of the data set"))
    size = expected.norms[:, None] * expected.norms
    torch.testing.assert_close(
        found.phi @ found.phi.mT / size, expected.phi @ expected.phi.mT / size, rtol=0, atol=2e-3
    )
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.scales["self_influence"], expected.scales["self_influence"], rtol=1e-3, atol=0)


# What is kept ------------------------------------------------------------------------------------------------


def _batch(*keys: int) -> Batch:
    return Batch(torch.zeros(len(keys), 1), torch.zeros(len(keys)), torch.tensor(keys))


def _labelled(size: int) -> Labelled:
    """Gradients that hold so many bytes of inputs and as many of output gradients."""
    model = nn.Linear(size // 4, size // 4)
    with CaptureSession(model, find_layers(model)) as session:
        outputs = session.forward(torch.ones(1, size // 4))
        gradients = session.backward(torch.ones_like(outputs))
    return Labelled(ScaledGradient(outputs, torch.ones(1)), gradients)


def test_blocks_are_kept_as_far_as_they_fit_and_found_by_all_of_their_examples() -> None:
    kept, value = KeptGradients(400), _labelled(80)
    for key in (1, 3, 5):
        kept.add(_batch(key, key + 1), value)
    assert kept.find(_batch(1, 2)) is value and kept.take(_batch(1, 2)) is value
    assert kept.take(_batch(1, 2)) is None and kept.take(_batch(5, 6)) is None
    assert all(kept.find(_batch(*keys)) is None for keys in [(3,), (4, 3), (3, 4, 5)])
    kept.add(_batch(5, 6), value)  # where the first was
    assert kept.take(_batch(5, 6)) is value
    kept.clear()
    assert kept.find(_batch(3, 4)) is None and kept.has_room(400) and not kept.has_room(401)


def test_a_block_that_is_computed_again_takes_its_room_once() -> None:
    kept, value = KeptGradients(400), _labelled(80)
    for _ in range(3):
        kept.add(_batch(1, 2), value)
    assert kept.find(_batch(1, 2)) is value and kept.has_room(240) and not kept.has_room(241)


def test_a_machine_keeps_what_it_needs_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_gradients, "available_bytes", lambda: 500)
    kept = KeptGradients(1000, least_free=300)
    assert kept.has_room(200) and not kept.has_room(201)


def test_memory_that_tensors_share_counts_once() -> None:
    whole = torch.zeros(100)
    assert bytes_of([whole[:10], whole[50:], torch.ones(1).expand(7)]) == 404


def test_what_nobody_gave_room_keeps_nothing() -> None:
    assert not Batching.of(64).keeps().has_room(1)


# What is shared ----------------------------------------------------------------------------------------------


def _two_backwards(name: str, generator: torch.Generator) -> tuple[Layers, list[LayerGradients]]:
    """Layers of a model, and their gradients for two random output gradients after one forward."""
    case = getattr(cases, name)(6, torch.float32)
    layers = find_layers(case.model)
    with CaptureSession(case.model, layers) as session:
        outputs = session.forward(case.inputs)
        return layers, [session.backward(torch.randn(outputs.shape, generator=generator)) for _ in range(2)]


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used", "mlp"])
def test_gradients_of_one_forward_are_rotated_together_as_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    layers, both = _two_backwards(name, generator)
    for layer, shape in layers.items():
        gradients = [each[layer] for each in both]
        q_out, q_in = (
            torch.linalg.qr(torch.randn(shape.groups, size, size, generator=generator))[0]
            for size in (shape.out, shape.inputs)
        )
        for gradient, together in zip(gradients, rotated(gradients, q_out, q_in), strict=True):
            [alone] = rotated([gradient], q_out, q_in)
            assert all(
                torch.equal(one, other)
                for one, other in zip(*map(dict.values, (vars(alone), vars(together))), strict=True)
            )
            if isinstance(alone, OuterRotated):
                alone = DenseRotated(alone.left[..., :, None] * alone.right[..., None, :])
            assert isinstance(alone, DenseRotated)
            expected = q_out.double().mT @ gradient.dense().double() @ q_in.double()
            torch.testing.assert_close(alone.value.double(), expected, rtol=1e-4, atol=1e-5)
            squares = expected.square().sum(dim=0)
            torch.testing.assert_close(together.squares(), squares, rtol=1e-4, atol=1e-5 * float(squares.max()))


@pytest.mark.parametrize(("name", "formed"), [("cnn", 1), ("grouped", 3), ("twice_used", 2), ("mlp", 0)])
def test_gradients_are_kept_as_what_is_smaller_and_rotate_to_the_same_bits(
    name: str, formed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_gradients, "AT_ONCE", 80)  # some slices a block
    generator = torch.Generator().manual_seed(0)
    layers, both = _two_backwards(name, generator)
    kept = smallest(both)
    assert sum(isinstance(gradient, FormedGradient) for gradient in kept[0].values()) == formed
    for layer, shape in layers.items():
        given, found = ([each[layer] for each in passes] for passes in (both, kept))
        size = bytes_of(tensor for gradient in found for tensor in gradient.tensors())
        factors = bytes_of(tensor for gradient in given for tensor in gradient.tensors())
        assert size == least_bytes(given[0], 2) == least_bytes(found[0], 2) <= factors
        assert size < factors or found == given
        q_out, q_in = (
            torch.eye(shape.out).expand(shape.groups, -1, -1),
            torch.randn(shape.groups, shape.inputs, shape.inputs, generator=generator),
        )
        assert found[0].slices() == given[0].slices()
        for some in found[0].slices():
            expected = rotated([each.examples(some) for each in given], q_out, q_in)
            together = rotated([each.examples(some) for each in found], q_out, q_in)
            for one, other in zip(expected, together, strict=True):
                assert all(torch.equal(*pair) for pair in zip(vars(one).values(), vars(other).values(), strict=True))
