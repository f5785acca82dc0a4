"""The first reading of all examples, by chunks: what is gathered of it does not depend on who has read what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

import tiny
from proponent.attribution.inputs import RaggedInputs
from proponent.classifier import Classifier, load_classifier
from proponent.errors import SpecError
from proponent.rebuild import batching, training_set
from proponent.rebuild.cluster.site import Site
from proponent.rebuild.readings import Readings
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace, of_this_run
from proponent.spec import load_spec
from test_rebuild import a_context


class Counted:
    """Examples that count their readings; some have other ids, labels or numbers than the position says."""

    def __init__(
        self, count: int = 20, ids: dict[int, str] | None = None, add: dict[int, float] | None = None
    ) -> None:
        self.reads, self.ids, self.add = [0] * count, ids or {}, add or {}

    def __len__(self) -> int:
        return len(self.reads)

    def example_id(self, position: int) -> str:
        return self.ids.get(position, f"c/{position}")

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.reads[position] += 1
        return torch.full((1, 4, 4), position / 10 + self.add.get(position, 0.0)), position % 3


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_classifier(load_spec(tiny.project(tmp_path_factory.mktemp("toy"))))


def expected_fingerprint(dataset: Counted) -> str:
    whole = hashlib.sha256()
    for position in range(len(dataset)):
        value, label = dataset[position]
        whole.update(
            hashlib.sha256(f"{dataset.example_id(position)}|{label}|".encode() + value.numpy().tobytes()).digest()
        )
    return whole.hexdigest()


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 21), st.integers(1, 4))
def test_a_fingerprint_is_that_of_the_examples_whoever_reads_them(
    classifier: Classifier, size: int, others: int
) -> None:
    data = [TrainingSet(Counted(), classifier, probe=False) for _ in range(others)]
    chunks = [range(start, min(start + size, 20)) for start in range(0, 20, size)]
    parts = [data[number % others].read(chunk) for number, chunk in enumerate(chunks)]
    driver = TrainingSet(Counted(), classifier, probe=False)
    assert driver.gather(parts) == driver.fingerprint() == expected_fingerprint(Counted())
    assert driver.readings.known() == list(range(20))
    assert TrainingSet(Counted(), classifier).fingerprint() == driver.fingerprint()


def test_a_fingerprint_tells_ids_and_numbers_apart(classifier: Classifier) -> None:
    sets = [Counted(), Counted(ids={3: "c/x"}), Counted(add={3: 1e-6}), Counted(21)]
    found = {TrainingSet(dataset, classifier).fingerprint() for dataset in sets}
    assert len(found) == len(sets)


@pytest.mark.parametrize("hashed", [training_set.id_key, lambda name: 1], ids=["hash", "one hash for all"])
def test_an_id_of_two_examples_is_named_and_no_other(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, hashed: object
) -> None:
    monkeypatch.setattr(training_set, "id_key", hashed)
    TrainingSet(Counted(), classifier).fingerprint()
    with pytest.raises(SpecError, match="two examples have the id 'c/17'"):
        TrainingSet(Counted(ids={2: "c/17"}), classifier).fingerprint()


def lengths(sizes: Sequence[int]) -> list[Tensor]:
    return [torch.arange(1.0, 1 + size) for size in sizes]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=12), st.randoms(use_true_random=False), st.integers(1, 5))
def test_readings_that_others_made_are_those_that_are_made_here(sizes: list[int], random: object, chunk: int) -> None:
    """Also of different lengths, in whatever order each process has met them."""
    values, count = lengths(sizes), len(sizes)

    def read(readings: Readings, positions: Sequence[int]) -> list[str]:
        ragged = RaggedInputs([values[position] for position in positions], lambda some: torch.stack(list(some)))
        return readings.changes(positions, [100 + position for position in positions], ragged)

    here, gathered = Readings(count), Readings(count)
    read(here, range(count))
    order = list(range(0, count, chunk))
    random.shuffle(order)  # type: ignore[attr-defined]
    for start in order:
        other, place = Readings(count), range(start, min(start + chunk, count))
        read(other, place)
        gathered.add(place, other.of(place))
    positions = list(range(count))
    assert gathered.differing(here) == [] and gathered.known() == positions
    assert gathered.by_shape(positions) == here.by_shape(positions) and gathered.largest() == here.largest()
    assert sizes[here.largest()] == max(sizes)
    assert read(gathered, positions) == [""] * count
    values[0] = values[0] + 1
    assert read(gathered, positions) == ["input"] + [""] * (count - 1)


def test_what_was_another_example_elsewhere_is_refused_by_name(classifier: Classifier) -> None:
    """A worker keeps what it has read, and a chunk of it may have been read again by another one."""
    mine, driver = (TrainingSet(Counted(add=add), classifier, probe=False) for add in ({7: 0.5}, {}))
    mine.read(range(10))
    driver.fingerprint()
    with pytest.raises(SpecError, match=r"example 7 \('c/7'\) was another one elsewhere"):
        mine.compare(driver.readings)
    mine = TrainingSet(Counted(), classifier, probe=False)
    mine.read(range(10))
    mine.compare(driver.readings)
    assert mine.readings.known() == list(range(20))


def test_a_data_set_of_another_size_is_not_taken_for_the_first_one(classifier: Classifier) -> None:
    with pytest.raises(SpecError, match="it had 20 examples when it was read first and has 19 here"):
        TrainingSet(Counted(19), classifier, readings=TrainingSet(Counted(), classifier).readings)


def test_a_process_opens_model_and_data_once_and_keeps_what_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the reading of the data on, whatever the curvature; another model is another site."""
    context = a_context(tiny.project(tmp_path), tmp_path / "work")
    monkeypatch.setattr(batching, "CHUNK", 8)
    reading = Site.of(context, "cpu")
    worker = reading.open()
    parts = [worker.data.read(positions) for positions in context.shards().values()]
    context.data.gather(parts)
    monkeypatch.setattr(type(worker.data), "items", None)
    spec = context.classifier.spec
    curvature = spec.curvature.model_copy(update={"damping": 1.0})
    other = replace(
        context, classifier=replace(context.classifier, spec=spec.model_copy(update={"curvature": curvature}))
    )
    site = Site.of(other, "cpu")
    assert site.shares(reading)
    later = site.open(worker)
    assert later.classifier.model is worker.classifier.model and later.settings.damping == 1.0
    assert len(later.data.batch(range(len(later.data))).labels) == len(later.data)
    trained = replace(context, classifier=replace(context.classifier, weights_sha256="other"))
    assert not Site.of(trained, "cpu").shares(reading)


@pytest.mark.parametrize("at_url", [False, True])
def test_a_workspace_of_a_run_begins_empty_and_leaves_nothing(tmp_path: Path, at_url: bool) -> None:
    """Also after a run that was killed, and where a process of that one still writes."""
    shards = (tmp_path / "elsewhere" / "reading").as_uri() if at_url else ""
    value = {"x": torch.ones(1)}
    killed = of_this_run(tmp_path / "work" / "reading", shards)
    before = killed.__enter__()
    before.save("reading-00000", value)
    with of_this_run(tmp_path / "work" / "reading", shards) as now:
        assert not now.has("reading-00000")
        with suppress(FileNotFoundError, SafetensorError):  # a directory that is gone, where it is one
            Workspace.joined(before.location).save("reading-00001", value)
        now.save("reading-00002", value)
        assert not now.has("reading-00001") and now.has("reading-00002")
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "work").exists()
    with pytest.raises(KeyError), of_this_run(tmp_path / "work" / "reading", shards) as now:
        now.save("reading-00000", value)
        (tmp_path / "work" / "key").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["key"]
