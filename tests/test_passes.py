"""What a rebuild's passes share: examples that are read once, the layout of images, sums over all rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from oracle import per_example_gradients
from proponent.attribution.curvature.kfac import TOGETHER, CovarianceAccumulator
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import find_layers
from proponent.classifier import Classifier, load_classifier
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.rebuild.batching import Batching, batching_for
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.layout import channels_last, gains_from_channels_last
from proponent.rebuild.memory import GIB
from proponent.rebuild.pipeline import NotStationaryWarning, RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.stationarity import LEAST, folded
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

# Examples that are read once ---------------------------------------------------------------------------------


class Counted:
    """Images that know how often they were read."""

    def __init__(self) -> None:
        self.reads = [0] * 10

    def __len__(self) -> int:
        return len(self.reads)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.reads[position] += 1
        return torch.full((1, 4, 4), position / 10), position % 3


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_classifier(load_spec(tiny.project(tmp_path_factory.mktemp("toy"))))


def test_what_was_read_is_kept_as_far_as_it_fits(classifier: Classifier) -> None:
    dataset = Counted()
    data = TrainingSet(dataset, classifier)
    fresh = TrainingSet(Counted(), classifier).batch(range(10))
    data.keep(6 * 16 * 4)
    data.fingerprint()
    before = list(dataset.reads)
    for _ in range(2):
        batch = data.batch([9, *range(9)])
        order = torch.tensor([9, *range(9)])
        for found, expected in ((batch.inputs, fresh.inputs), (batch.labels, fresh.labels), (batch.keys, fresh.keys)):
            assert torch.equal(found, expected[order])
    assert [after - once for after, once in zip(dataset.reads, before, strict=True)] == [0] * 6 + [2] * 4


def test_what_is_kept_cannot_be_written_to(classifier: Classifier) -> None:
    data = TrainingSet(Counted(), classifier)
    data.keep(GIB)
    first = data.batch(range(10))
    first.inputs.zero_()  # as a model with an in-place operation may
    assert bool(data.batch(range(10)).inputs[1:].gt(0).all())


# The layout of images ----------------------------------------------------------------------------------------


class Viewing(nn.Module):
    """It takes feature maps for flat in one layout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs).relu().view(len(inputs), -1))


def _gains(classifier: Classifier, model: nn.Module, inputs: Tensor) -> bool:
    of = Classifier(**{**vars(classifier), "model": model.eval()})
    return gains_from_channels_last(of, find_layers(model), inputs)


def test_images_lie_with_channels_side_by_side_where_the_model_takes_them_so(classifier: Classifier) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 6)
    convolving = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    assert _gains(classifier, convolving, images)
    assert not _gains(classifier, Viewing(), images)
    assert not _gains(classifier, nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), images)
    assert not _gains(classifier, nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)), images[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_changes_no_number_and_spreads(channels: int) -> None:
    images = torch.randn(2, channels, 6, 5)
    found = channels_last(images)
    assert torch.equal(found, images)
    layer = nn.Conv2d(channels, 4, 3)
    assert layer(found).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(found), layer(images))


def test_blocks_of_a_convolving_model_lie_so(tmp_path: Path) -> None:
    of = load_classifier(load_spec(tiny.project(tmp_path, model="normed")))
    data = TrainingSet.open(of, of.spec.dataset)
    batching = batching_for(of, of.find_layers(), data, GIB, None)
    assert batching.channels_last
    assert all(channels_last(b.tensor).stride() == b.tensor.stride() for b in batching.blocks(data))


# Sums --------------------------------------------------------------------------------------------------------


def test_inputs_of_some_batches_are_multiplied_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    layers = find_layers(model)
    accumulator = CovarianceAccumulator(layers)
    batches = [torch.randn(3, 5).double() for _ in range(TOGETHER + 2)]
    for inputs in batches:
        with CaptureSession(model, layers) as session:
            session.forward(inputs)
            accumulator.update([session.backward(torch.ones(3, 3).double())], 3)
    rows = torch.cat([torch.cat(batches), torch.ones(3 * len(batches), 1)], dim=1)
    for _ in range(2):
        torch.testing.assert_close(accumulator.state()["inputs/0"][0], rows.mT @ rows)


def _objective(classifier: Classifier, data: TrainingSet) -> float:
    """||mean_i g_i + wd theta|| / mean_i ||g_i|| in float64, by automatic differentiation."""
    model = classifier.model.double()
    batch = data.batch(range(len(data)))
    gradients = per_example_gradients(model, classifier.loss.per_example, batch.tensor.double(), batch.labels)
    flat = torch.cat([gradients[name].flatten(1) for name in gradients], dim=1)
    theta = torch.cat([parameter.detach().flatten() for _, parameter in model.named_parameters()])
    objective = flat.mean(dim=0) + classifier.spec.weight_decay * theta
    return float(objective.norm() / flat.norm(dim=1).mean())


@pytest.mark.parametrize(
    ("model", "curvature"),
    [
        ("logistic", {"kind": "exact"}),
        ("grouped", {"kind": "ekfac"}),
        ("grouped", {"kind": "kfac", "damping": 3.0, "fit_examples": 20}),
    ],
)
def test_the_slope_of_the_objective_is_that_of_all_rows(
    tmp_path: Path, model: str, curvature: Mapping[str, Any]
) -> None:
    path = tiny.project(tmp_path, model=model, curvature=dict(curvature), iterations=3, expected_accuracy=0)
    spec = load_spec(path)
    with pytest.warns(NotStationaryWarning):
        bundle = rebuild(spec, Store(tmp_path / "store"), RebuildOptions(quiet=True))
    classifier = load_classifier(spec)
    expected = _objective(classifier, TrainingSet.open(load_classifier(spec), spec.dataset))
    assert read_manifest(bundle).gradient_norm_ratio == pytest.approx(expected, rel=1e-4)


def test_a_sum_that_is_too_long_is_folded_and_keeps_its_norm(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TrainingSet(Counted(), classifier)
    workspace = Workspace(tmp_path, "key")
    context = RebuildContext(
        classifier, classifier.find_layers(), data, Batching.of(4), workspace, StageProgress(quiet=True)
    )
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3 * LEAST + 5, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.equal(folded(context, [one[:7], one[7:]]), one)
    monkeypatch.setattr("proponent.rebuild.stationarity.PART_BYTES", 0)
    assert len(folded(context, [one])) == LEAST
    torch.testing.assert_close(folded(context, [one]) + folded(context, [other]), folded(context, [one + other]))
    assert float(folded(context, [one]).norm() / one.norm()) == pytest.approx(1, abs=0.01)
