"""Rows are those of fixed examples: a dataset, a factory or a transform that gives others each time is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tiny
from proponent.attribution.inputs import NamedInputs
from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.inspection.diff import diff
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.readings import Readings
from proponent.rebuilding import audited_rebuild
from proponent.results import Explanation
from proponent.spec import load_spec

UNSTEADY = """
import random

import torch
from PIL import ImageOps
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from {module} import Images, Tensors


class Mirrored(Images):
    def __getitem__(self, position):
        image, label = super().__getitem__(position)
        return ImageOps.mirror(image) if random.random() < 0.1 else image, label


class Relabelled(Images):
    def __getitem__(self, position):
        return super().__getitem__(position)[0], random.randrange(3)


class Renamed(Images):
    def example_id(self, position):
        return f"toy/{{position}}/{{random.random()}}"


class Moved(Images):
    def source(self, position):
        return f"cache-{{random.random()}}"


class Shrinking(Tensors):
    bad = 0

    def __len__(self):
        return len(self.labels) - self.bad

    def __getitem__(self, position):
        self.bad = int(position == 39)
        return super().__getitem__(position)


class Epochs(Tensors):
    reads = 0

    def __getitem__(self, position):
        self.reads += 1
        value, label = super().__getitem__(position)
        return value * (1 + 0.01 * (self.reads // len(self))), label


class Late(Tensors):
    reads = 0

    def __getitem__(self, position):
        value, label = super().__getitem__(position)
        self.reads += position == 17
        return value.flip(-1) if position == 17 and self.reads == 4 else value, label


class Buffered(Tensors):
    def __init__(self, **changes):
        super().__init__(**changes)
        self.buffer = self.inputs[0].clone().requires_grad_()

    def __getitem__(self, position):
        self.buffer.data.copy_(self.inputs[position])
        return self.buffer, int(self.labels[position])


class Numbers(Tensors):
    def __getitem__(self, position):
        return self.inputs[position].mean(), int(self.labels[position])


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.directions = torch.randn(36, 36)
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        return self.head(x.flatten(1) @ self.directions)


def projected():
    return nn.Sequential(Projected())


def of_numbers():
    return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3))


class Shuffled(Images):
    def __init__(self):
        super().__init__()
        self.order = random.sample(range(len(self.labels)), len(self.labels))

    def __getitem__(self, position):
        return super().__getitem__(self.order[position])


class Sized(Images):
    calls = 0

    def __init__(self):
        Sized.calls += 1
        super().__init__(limit=40 if Sized.calls % 2 else 39)


def jittered(image):
    return pil_to_tensor(image).float() / 255 + 0.5 * random.random()
"""


def unsteady(root: Path, **factories: str) -> Path:
    """A project whose explain.yaml names things of the module above, by their keys."""
    path = tiny.project(root)
    module = load_spec(path).model.factory.partition(":")[0]
    (root / f"un{module}.py").write_text(UNSTEADY.format(module=module))
    return tiny.change(path, **{key: {"factory": f"un{module}:{name}"} for key, name in factories.items()})


def build(path: Path, store: str = "store") -> Path:
    return rebuild(load_spec(path), Store(path.parent / store), RebuildOptions(quiet=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Mirrored", r"example \d+ \('toy/\d+'\) had another input when it was read again"),
        ("Relabelled", r"example \d+ \('toy/\d+'\) had another id or label when it was read again"),
        ("Renamed", r"example \d+ \('toy/\d+/[\d.e-]+'\) had another id or label"),
        ("Moved", r"example 0 came from 'cache-.*' and, read again, from 'cache-"),
        ("Shrinking", "it had 40 examples and has 39 now"),
        ("Epochs", r"example \d+ \('\d+'\) had another input"),
        ("Late", r"example 17 \('17'\) had another input when it was read again"),
        ("Shuffled", r"its factory gave 'toy/\d+' as example \d+ and, called again, 'toy/\d+', or another input"),
        ("Sized", "its factory gave 40 examples and, called again, 39"),
    ],
)
def test_a_dataset_that_changes_is_refused_by_name(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(SpecError, match=f"key 'dataset': {expected}.*augmentation") as caught:
        build(unsteady(tmp_path, dataset=name))
    assert caught.value.field == "dataset"
    assert Store(tmp_path / "store").models() == []


@pytest.mark.parametrize("dataset", ["Images", "Tensors"])
def test_a_random_transform_is_refused(tmp_path: Path, dataset: str) -> None:
    """Also where the dataset yields tensors, so that the service alone would call it."""
    path = unsteady(tmp_path, transform="jittered")
    module = load_spec(path).model.factory.partition(":")[0]
    with pytest.raises(SpecError, match=r"key 'transform': it gives (another input|other results) each") as caught:
        build(tiny.change(path, dataset={"factory": f"{module}:{dataset}"}))
    assert caught.value.field == "transform"


def test_examples_in_one_buffer_are_those_of_their_positions(tmp_path: Path) -> None:
    """A dataset may fill the same tensor for each example, and one that requires a gradient."""
    path = unsteady(tmp_path, dataset="Buffered")
    module = load_spec(path).model.factory.partition(":")[0]
    buffered = build(path)
    separate = build(tiny.change(path, dataset={"factory": f"{module}:Tensors"}), "other")
    names = ("rows.faiss", "scales.safetensors")
    assert all((buffered / name).read_bytes() == (separate / name).read_bytes() for name in names)


@pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")
def test_a_model_whose_factory_draws_what_no_weights_hold_is_refused(tmp_path: Path) -> None:
    """Loaded anew it would be another model, whoever restores the code."""
    path = unsteady(tmp_path, model="projected")
    save_file({"0.head.weight": torch.eye(3, 36), "0.head.bias": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(SpecError, match="key 'model': its factory makes another one each time"):
        build(tiny.change(path, expected_accuracy=0))
    assert Store(tmp_path / "store").models() == []


@pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")
def test_an_input_may_be_a_single_number(tmp_path: Path) -> None:
    path = unsteady(tmp_path, dataset="Numbers", model="of_numbers")
    save_file({"1.weight": torch.ones(3, 1), "1.bias": torch.zeros(3)}, tmp_path / "weights.safetensors")
    [answer] = Explainer.load(build(tiny.change(path, expected_accuracy=0))).explain(
        [torch.tensor(0.5)], [ExplainOptions(top_k=3)]
    )
    assert isinstance(answer, Explanation) and answer.results[0].proponents


def test_held_out_examples_are_looked_at_too(tmp_path: Path) -> None:
    path = unsteady(tmp_path, held_out="Shuffled")
    with pytest.raises(SpecError, match="key 'held_out': its factory gave"):
        audited_rebuild(load_spec(path), Store(tmp_path / "store"), RebuildOptions(quiet=True))


def test_two_bundles_are_asked_about_the_same_inputs(tmp_path: Path) -> None:
    """One held-out set for both, in whatever order its factory gives it."""
    path = unsteady(tmp_path, held_out="Shuffled")
    first = build(path)
    second = build(tiny.change(path, curvature={"kind": "exact", "damping": 1e-6}))
    found = diff(first, second, queries=20).overall
    assert (found.queries, found.predictions_changed) == (20, 0)
    assert found.overlap > 0.95


def _change(readings: Readings, position: int, key: int, value: torch.Tensor) -> str:
    [found] = readings.changes([position], [key], value[None])
    return found


def test_rounding_is_not_a_change_and_what_can_be_seen_is() -> None:
    value = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    readings = Readings(2)
    changes: dict[str, Any] = {
        "": value + 1e-6 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)),
        "input": torch.nn.functional.pad(value[:, :, :-1], (1, 0)),
    }
    assert _change(readings, 1, 7, value) == "" == _change(readings, 0, 7, torch.zeros_like(value))
    assert {name: _change(readings, 1, 7, changed) for name, changed in changes.items()} == {"": "", "input": "input"}
    assert _change(readings, 1, 8, value) == "id or label"
    assert _change(readings, 0, 7, torch.zeros_like(value)) == ""
    assert _change(readings, 0, 7, value) == "input"


def test_examples_of_a_block_are_compared_each_with_its_own_first_reading() -> None:
    values = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    readings = Readings(9)
    assert readings.changes([8, 1, 4], [0, 1, 2], values[:3]) == [""] * 3
    mixed = torch.stack([values[3], values[1], values[0], values[4]])
    assert readings.changes([2, 1, 8, 4], [5, 1, 7, 2], mixed) == ["", "", "id or label", "input"]
    assert readings.changes([2], [5], values[3:4]) == [""]


def test_a_change_shows_beside_numbers_of_any_size() -> None:
    """A table's columns have units of their own: none hides a change of another."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(50):
        person = torch.tensor([40.0, 2e5, *torch.randint(0, 16, (12,), generator=generator).tolist()])
        older, other = person.clone(), person.clone()
        older[0] += 5
        other[7] = (other[7] + 3) % 16
        readings = Readings(1)
        assert _change(readings, 0, 1, person) == "" == _change(readings, 0, 1, person * (1 + 1e-7))
        seen.append([_change(readings, 0, 1, changed) for changed in (older, other)])
    assert seen == [["input", "input"]] * 50


def test_a_change_of_one_id_among_many_is_seen() -> None:
    """Of a text's ids, of its mask, and of a code beside an amount: to the next one as well as to any other."""
    generator, seen = torch.Generator().manual_seed(0), []
    for place in range(50):
        first = {
            "ids": torch.randint(5, 30_000, (128,), generator=generator),
            "mask": torch.ones(128, dtype=torch.int64),
            "amount": 3e5 * torch.rand(4, generator=generator),
        }
        readings = Readings(1)
        for name, step in ((None, 0), ("ids", 1), ("ids", -2), ("mask", -1)):
            changed = {key: value.clone() for key, value in first.items()}
            if name:
                changed[name][place] += step
            batch = NamedInputs({key: value[None] for key, value in changed.items()})
            seen += readings.changes([0], [1], batch)
    assert seen == ["", "input", "input", "input"] * 50


def test_a_change_of_scale_alone_is_seen() -> None:
    readings = Readings(1)
    value = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert [_change(readings, 0, 1, changed) for changed in (value, value * 1.01)] == ["", "input"]
