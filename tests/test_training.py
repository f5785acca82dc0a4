"""Training: it minimises the objective that attribution assumes, and depends on nothing but its seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from proponent.attribution.inputs import RaggedInputs
from proponent.attribution.losses import get_loss
from proponent.datasets import digits, materialise, synthetic
from proponent.datasets.transforms import pixels
from proponent.errors import InvalidInputError, NotFoundError, TrainingMismatchError
from proponent.models.logistic import LogisticRegression
from proponent.models.resnet import resnet20
from proponent.spec import load_spec
from proponent.training.augmentation import flip_crop
from proponent.training.lbfgs import gradient_norm
from proponent.training.loop import accuracy, fit, predicted_labels, seeded
from proponent.training.presets import PRESETS
from proponent.training.train_preset import train_preset

ROOT = Path(__file__).parent.parent
KILL_STATUS = 9
cross_entropy = get_loss("cross_entropy").per_example


def small_digits(limit: int = 200) -> tuple[Tensor, Tensor]:
    return materialise(digits.train(limit=limit), pixels)


def logistic(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return LogisticRegression(inputs=64, classes=10)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_lbfgs_reaches_a_stationary_point_on_digits() -> None:
    inputs, labels = materialise(digits.train(), pixels)
    model = logistic()
    (record,) = fit(model, inputs, labels, cross_entropy, weight_decay=0.01, optimizer="lbfgs")
    # Rounding weights of size ~1 to float32 moves the gradient by about 1e-8.
    assert gradient_norm(model.double(), inputs.double(), labels, cross_entropy, 0.01) < 1e-7
    assert record["gradient_norm"] < 1e-7
    assert record["accuracy"] > 0.94


def test_lbfgs_forgets_where_it_started() -> None:
    inputs, labels = small_digits()
    models = [logistic(seed) for seed in (0, 1)]
    for model in models:
        fit(model, inputs, labels, cross_entropy, weight_decay=0.01, optimizer="lbfgs")
    assert weights(models[0]).dtype == torch.float32
    assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_is_the_l2_term_of_the_objective(optimizer: str) -> None:
    """One step with weight decay is one step on the loss plus the L2 term written out, biases included."""
    inputs, labels = small_digits()
    built_in, written_out = logistic(), logistic()
    parameters = list(written_out.parameters())

    def with_l2(outputs: Tensor, y: Tensor) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        return cross_entropy(outputs, y) + 0.5 * 0.3 * squares

    options = {"optimizer": optimizer, "epochs": 3, "lr": 0.01, "batch_size": 50}
    fit(built_in, inputs, labels, cross_entropy, weight_decay=0.3, **options)
    fit(written_out, inputs, labels, with_l2, weight_decay=0.0, **options)
    assert torch.allclose(weights(built_in), weights(written_out), atol=1e-5)
    assert not torch.allclose(weights(built_in), weights(logistic()), atol=1e-2)


def test_sgd_approaches_the_optimum_of_lbfgs() -> None:
    inputs, labels = small_digits()
    exact, approximate = logistic(), logistic()
    fit(exact, inputs, labels, cross_entropy, weight_decay=0.1, optimizer="lbfgs")
    fit(approximate, inputs, labels, cross_entropy, weight_decay=0.1, lr=0.1, epochs=150, batch_size=200)
    assert torch.allclose(weights(exact), weights(approximate), atol=1e-3)


def train_net(seed: int) -> nn.Module:
    inputs, labels = materialise(synthetic.shapes(count=24, size=32), pixels)
    with seeded(0):
        model = resnet20(4)
    options = {"epochs": 2, "batch_size": 10, "augment": "flip_crop", "schedule": "cosine"}
    fit(model, inputs, labels, cross_entropy, weight_decay=1e-3, seed=seed, **options)
    return model


def test_training_depends_on_its_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first = train_net(seed=1)
    torch.rand(7)
    again, other = train_net(seed=1), train_net(seed=2)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training
    torch.random.set_rng_state(state)


def test_inputs_of_different_lengths_reach_the_model_as_padded_batches() -> None:
    """Before they go to a GPU, where each would be a kernel: the model is given tensors, as if they had been one."""
    inputs, labels = small_digits(60)
    shorter = [row[: 40 + number % 3] for number, row in enumerate(inputs.flatten(1))]

    def pad(rows: Sequence[Tensor]) -> Tensor:
        return torch.stack([nn.functional.pad(row, (0, 64 - len(row))) for row in rows])

    ragged, padded = logistic(), logistic()
    fit(ragged, RaggedInputs(shorter, pad), labels, cross_entropy, weight_decay=0.0, epochs=2)
    fit(padded, pad(shorter), labels, cross_entropy, weight_decay=0.0, epochs=2)
    assert torch.equal(weights(ragged), weights(padded))


def test_seeded_restores_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded(5):
        torch.rand(3)
        raise RuntimeError("inside")
    assert torch.equal(before, torch.random.get_rng_state())


def test_log_is_called_with_each_record() -> None:
    inputs, labels = small_digits(60)
    seen: list[dict[str, float]] = []
    history = fit(logistic(), inputs, labels, cross_entropy, weight_decay=0.0, epochs=3, log=seen.append)
    assert seen == history
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert history[2]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(("schedule", "rates"), [("none", 4.0), ("cosine", 2.5)])
def test_schedule_sets_the_length_of_the_steps(schedule: str, rates: float) -> None:
    """With a constant gradient the way made is the learning rate times the sum of the rates."""
    model = nn.Linear(1, 1, bias=False)
    before = weights(model)
    inputs, labels = torch.ones(2, 1), torch.zeros(2, dtype=torch.int64)
    options = {"epochs": 4, "lr": 0.1, "momentum": 0.0, "schedule": schedule}
    fit(model, inputs, labels, lambda outputs, _: outputs.flatten(), weight_decay=0.0, **options)
    assert torch.allclose(before - weights(model), torch.tensor([0.1 * rates]))


def test_images_whose_channels_lie_side_by_side_are_trained_on_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(20, 3, 8, 8, generator=generator), torch.arange(20) % 10
    found, laid_out = [], []
    for channels_last in (False, True):
        with seeded(0):
            model = resnet20(classes=10)
        model.register_forward_pre_hook(
            lambda _, given: laid_out.append(given[0].is_contiguous(memory_format=torch.channels_last))
        )
        options = {"epochs": 2, "batch_size": 10, "augment": "flip_crop", "channels_last": channels_last}
        fit(model, images, labels, cross_entropy, weight_decay=0.01, **options)
        found.append(weights(model))
    assert laid_out == [False] * 4 + [True] * 4
    assert torch.allclose(*found, rtol=0, atol=1e-3)


def test_only_images_have_channels_to_lay_out() -> None:
    inputs, labels = small_digits()
    with pytest.raises(InvalidInputError, match=r"channels_last is of images \[N, C, H, W\], the inputs are others"):
        fit(logistic(), inputs.flatten(1), labels, cross_entropy, weight_decay=0.0, channels_last=True)


def test_flip_crop_moves_each_image_on_its_own() -> None:
    images = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(64, 1, 1, 1)
    changed = flip_crop(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 20
    # The rows run left to right, or right to left where mirrored, within the zero padding.
    steps = {float(step) for image in changed for row in image[0] for step in row[row > 0].diff().unique()}
    assert steps == {-1.0, 1.0}


def test_single_outputs_are_predicted_by_their_sign() -> None:
    assert predicted_labels(torch.tensor([[-0.1], [0.2]])).tolist() == [0, 1]
    assert predicted_labels(torch.tensor([[0.1, 0.2], [0.4, 0.3]])).tolist() == [1, 0]


def test_accuracy_does_not_depend_on_the_batch_size() -> None:
    inputs, labels = small_digits(50)
    model = logistic()
    assert accuracy(model, inputs, labels, 7) == accuracy(model, inputs, labels, 50)


@pytest.mark.parametrize("option", [{"optimizer": "adamw"}, {"schedule": "step"}, {"augment": "mixup"}])
def test_unknown_options_are_refused(option: dict[str, str]) -> None:
    inputs, labels = small_digits(10)
    with pytest.raises(InvalidInputError, match=f"Unknown {next(iter(option))}"):
        fit(logistic(), inputs, labels, cross_entropy, weight_decay=0.0, **option)  # type: ignore[arg-type]


def test_inputs_and_labels_must_fit() -> None:
    inputs, labels = small_digits(10)
    with pytest.raises(InvalidInputError, match="10 inputs and 9 labels"):
        fit(logistic(), inputs, labels[:9], cross_entropy, weight_decay=0.0)


# presets


def test_digits_preset_writes_a_spec_that_loads(tmp_path: Path) -> None:
    result = train_preset("digits", tmp_path)
    spec = load_spec(result.spec)
    assert result.accuracy > 0.94 < result.held_out_accuracy
    assert result.accuracy - 0.03 - 1e-9 < spec.expected_accuracy < result.accuracy
    model = LogisticRegression(**spec.model.kwargs)
    model.load_state_dict(load_file(result.weights))
    assert accuracy(model, *materialise(digits.train(), pixels)) == result.accuracy
    assert json.loads(result.log.read_text())["epochs"][0]["gradient_norm"] < 1e-7


def test_limit_and_epochs_are_recorded_but_no_data_root(tmp_path: Path) -> None:
    result = train_preset("digits", tmp_path, epochs=2, limit=30, seed=4)
    content = yaml.safe_load(result.spec.read_text())
    assert content["dataset"]["kwargs"] == {"limit": 30}
    assert content["held_out"]["kwargs"] == {"limit": 30}
    assert content["training"]["kwargs"] == {"optimizer": "lbfgs", "epochs": 2, "seed": 4}


def test_a_full_training_below_expectation_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proponent.training.train_preset.accuracy", lambda *_: 0.5)
    with pytest.raises(TrainingMismatchError, match=r"reached a training accuracy of 0\.5000"):
        train_preset("digits", tmp_path)
    assert (tmp_path / "train_log.json").exists()


def test_unknown_preset_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="expected one of digits, mnist"):
        train_preset("imagenet", tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("mnist", "cifar10-cnn-50k")])
def test_every_preset_trains_a_few_steps(name: str, tmp_path: Path, data_root: Path) -> None:
    seen: list[dict[str, float]] = []
    preset = PRESETS[name]
    result = train_preset(name, tmp_path, data_root=data_root, epochs=1, limit=8, log=seen.append)
    spec = load_spec(result.spec)
    assert len(seen) == 1
    assert spec.class_names == list(preset.class_names)
    assert ("root" in spec.dataset.kwargs) is preset.needs_data


KILLED = """
import os, sys
from pathlib import Path
from proponent.training.checkpoint import Checkpoint
from tests.test_training import dropped_out
save = Checkpoint.save
def save_and_die(self, history):
    save(self, history)
    if len(history) == 2:
        os._exit(9)
Checkpoint.save = save_and_die
dropped_out(Path(sys.argv[1]))
"""


def dropped_out(checkpoint: Path | None, seed: int = 0, epochs: int = 4) -> tuple[Tensor, list[dict[str, float]]]:
    """Trains a network whose course hangs on the optimiser's state and on every random generator."""
    inputs, labels = small_digits(60)
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 10))
    options = {"optimizer": "adam", "lr": 0.01, "epochs": epochs, "batch_size": 16, "schedule": "cosine"}
    history = fit(
        model, inputs, labels, cross_entropy, weight_decay=0.01, seed=seed, checkpoint=checkpoint, **options
    )
    state = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    return state, [{key: value for key, value in record.items() if key != "cpu_seconds"} for record in history]


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == KILL_STATUS, done.stderr
    assert len(torch.load(file, weights_only=True)["history"]) == 2
    state, history = dropped_out(file)
    whole, records = dropped_out(None)
    assert torch.equal(state, whole) and history == records


def test_a_checkpoint_of_another_training_is_left_aside(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    dropped_out(file, seed=1)
    assert torch.equal(dropped_out(file)[0], dropped_out(None)[0])
    dropped_out(file, epochs=2)
    assert torch.equal(dropped_out(file)[0], dropped_out(None)[0])


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_damaged_checkpoint_is_left_aside(tmp_path: Path, left: int) -> None:
    file = tmp_path / "checkpoint.pt"
    dropped_out(file, epochs=2)
    file.write_bytes(file.read_bytes()[:left])
    assert torch.equal(dropped_out(file, epochs=2)[0], dropped_out(None, epochs=2)[0])
