"""The training set as a rebuild reads it: transformed inputs, labels and stable ids in bounded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proponent.attribution.inputs import (
    Example,
    Inputs,
    Pad,
    RaggedInputs,
    content,
    described,
    equal,
    finite,
    form_of,
    grouped,
    shape_key,
    sizes,
    stacked,
)
from proponent.attribution.user_code import blame
from proponent.classifier import Classifier, call_factory
from proponent.errors import SpecError
from proponent.raw_inputs import check_scalars, kind_of, model_input, pad_of, unpadded_input
from proponent.rebuild.filtered_dataset import FilteredDataset, example_id_of, source_of
from proponent.rebuild.kept_examples import KeptExamples
from proponent.rebuild.readings import Readings
from proponent.rebuild.signatures import signature_of
from proponent.signature import InputKind, InputSignature
from proponent.spec import Factory

PROBED = 64
"""Examples that are read twice at once: one that changes at every tenth reading goes unseen with probability 2e-6.
A rarer change shows in the passes after, which compare every example with its first reading."""
READ_AT_ONCE = 64
"""Examples that are read together where nothing is computed on them."""


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Attributes:
        keys: int64 hashes of their ids, for seeded draws.
        places: Where they stand among the positions that were asked for, where they are not the next ones.
    """

    inputs: Inputs
    labels: Tensor
    keys: Tensor
    places: tuple[int, ...] = ()

    def at(self, places: list[int]) -> Batch:
        """Some of them."""
        return Batch(self.inputs[places], self.labels[places], self.keys[places])

    @property
    def tensor(self) -> Tensor:
        """The inputs of a model that takes one tensor of one shape; TypeError of any other."""
        if not isinstance(self.inputs, Tensor):
            raise TypeError(f"inputs are {type(self.inputs).__name__}, expected a tensor")
        return self.inputs

    def split(self, size: int) -> Iterator[Batch]:
        """Parts of at most ``size`` examples, each in memory of its own: its alignment steers how sums are formed."""
        for start in range(0, len(self.labels), size):
            part = slice(start, start + size)
            columns = (self.labels[part].clone(), self.keys[part].clone())
            yield Batch(self.inputs[part].clone(), *columns, self.places[part])


class TrainingSet:
    """A map-style dataset of (input, label) and the classifier's transform.

    An input is an image, a text, a record (a mapping of columns to scalars), or what the model takes already: a
    tensor or a mapping of names to tensors. A dataset may offer ``example_id(i)`` and ``source(i)``; without them the
    position is the id. Every reading of an example must give the same.
    """

    def __init__(
        self,
        dataset: Any,
        classifier: Classifier,
        key: str = "dataset",
        *,
        forgotten: Collection[str] = (),
        readings: Readings | None = None,
        probe: bool = True,
    ) -> None:
        self.forgotten = frozenset(forgotten)
        if self.forgotten:
            dataset = FilteredDataset(dataset, self.forgotten)
        self._dataset = dataset
        self._classifier = classifier
        self._key = key
        self._fingerprint: str | None = None
        self._kept = KeptExamples()
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
            raise SpecError(
                f"key '{key}.factory': it returned {type(dataset).__name__}, expected a map-style dataset "
                "with at least one example",
                field=f"{key}.factory",
            )
        self._size = len(dataset)
        self.readings = Readings(self._size) if readings is None else readings
        if len(self.readings) != self._size:
            raise self._unsteady(
                f"it had {len(self.readings)} examples when it was read first and has {self._size} here"
            )
        self._pad: Pad | None = None
        self._first: tuple[Any, Example] | None = None
        self._first = self._read_first()
        if probe and readings is None:
            self._check_steady()

    @classmethod
    def open(
        cls,
        classifier: Classifier,
        factory: Factory,
        key: str = "dataset",
        *,
        forgotten: Collection[str] = (),
        readings: Readings | None = None,
        probe: bool = True,
    ) -> TrainingSet:
        """Calls a dataset factory of the classifier's spec; forgotten examples are left out by id.

        With the ``readings`` of another process the examples must be what they were there. Without ``probe`` none is
        read twice to see whether it stays the same: for whoever has opened the same set before.
        """
        dataset = call_factory(classifier.spec, factory, key)
        return cls(dataset, classifier, key, forgotten=forgotten, readings=readings, probe=probe)

    def check_factory(self, factory: Factory, *, forgotten: Collection[str] = ()) -> None:
        """Calls the dataset's factory again: a rebuild, an audit and a verification each do, and mean the same.

        Raises:
            SpecError: The factory gives other examples, or gives them in another order.
        """
        again = TrainingSet.open(self._classifier, factory, self._key, forgotten=forgotten)
        if len(again) != len(self):
            raise self._unsteady(f"its factory gave {len(self)} examples and, called again, {len(again)}")
        probed = self._probed()
        _, inputs, labels = again.items(probed)
        keys = [_key(again.example_id(position), label) for position, label in zip(probed, labels, strict=True)]
        for position, change in zip(probed, self.readings.changes(probed, keys, inputs), strict=True):
            if change:
                raise self._unsteady(
                    f"its factory gave {self.example_id(position)!r} as example {position} and, called again, "
                    f"{again.example_id(position)!r}, or another input or label of that name (does it shuffle?)"
                )

    def __len__(self) -> int:
        return self._size

    def example_id(self, position: int) -> str:
        """Stable id of one example."""
        return example_id_of(self._dataset, position)

    def source(self, position: int) -> str:
        """Where the example comes from, or an empty text."""
        return source_of(self._dataset, position)

    def item(self, position: int) -> tuple[Any, Example, int]:
        """Raw input, model input and label of one example; raises what `items` raises."""
        [raw], inputs, [label] = self.items([position])
        return raw, next(iter(inputs)), label

    def items(self, positions: Sequence[int]) -> tuple[list[Any], Inputs, list[int]]:
        """Raw inputs, model inputs [n, ...] and labels of some examples, at least one.

        Raises:
            SpecError: A transform fails, a shape differs from the first example's though there is no rule of padding,
                a tensor is not finite, a label is not a class, or an example is not what it was when it was read
                before.
        """
        read = [self._read(position) for position in positions]
        raws, labels = [raw for raw, _, _ in read], [label for _, _, label in read]
        inputs = self.together([found for _, found, _ in read])
        self._check_finite(positions, inputs)
        self._check_same(positions, raws, inputs, labels)
        return raws, inputs, labels

    def together(self, examples: Sequence[Example]) -> Inputs:
        """Model inputs of some examples as a batch."""
        if self._pad is None or len(grouped(examples)) == 1:
            return stacked(examples)
        return RaggedInputs(examples, self._pad)

    def by_shape(self, positions: Sequence[int]) -> list[list[int]]:
        """Places in some positions, by the shape of the examples there; in order within each, which is one batch."""
        if self._pad is None:
            return [list(range(len(positions)))]
        unread = self.readings.unread(positions)
        for start in range(0, len(unread), READ_AT_ONCE):
            self.items(unread[start : start + READ_AT_ONCE])
        return self.readings.by_shape(positions)

    def largest(self) -> int:
        """Position of an example of the largest shape among those that have been read."""
        return self.readings.largest() if self._pad else 0

    def unpadded(self) -> list[Example]:
        """Some examples before they were padded; none where there is no rule of padding."""
        if self._pad is None:
            return []
        return [unpadded_input(self._classifier.transform, raw) for raw in self.probed_raws()]

    def probed_raws(self) -> Sequence[Any]:
        """Some examples as the data set gives them."""
        raws, _, _ = self.items(self._probed())
        return raws

    def _check_finite(self, positions: Sequence[int], inputs: Inputs) -> None:
        for position, good in zip(positions, finite(inputs), strict=True):
            if not good:
                name = self.example_id(position)
                raise SpecError(f"example {name!r} holds NaN or infinite values", field=self._key)

    def _check_same(
        self, positions: Sequence[int], raws: Sequence[Any], inputs: Inputs, labels: Sequence[int]
    ) -> None:
        keys = [_key(self.example_id(position), label) for position, label in zip(positions, labels, strict=True)]
        found = self.readings.changes(positions, keys, inputs)
        for position, change, raw, example in zip(positions, found, raws, inputs, strict=True):
            if not change:
                continue
            named = f"example {position} ({self.example_id(position)!r})"
            is_transformed = kind_of(raw) not in (InputKind.TENSOR, InputKind.TENSORS)
            if is_transformed and not equal(example, self._transformed(raw, position)):
                raise SpecError(
                    f"key 'transform': it gives another input each time for {named}: take what is random out of it",
                    field="transform",
                )
            raise self._unsteady(f"{named} had another {change} when it was read again")

    def _unsteady(self, what: str) -> SpecError:
        return SpecError(
            f"key '{self._key}': {what}; the rows of an index are those of fixed examples: take augmentation and "
            "shuffling out of the dataset (they belong to training)",
            field=self._key,
        )

    def _probed(self) -> list[int]:
        return self.sample(PROBED, seed=2)

    def _check_steady(self) -> None:
        """Reads some examples twice, all of them before any again: an epoch may change what is read."""
        sources = [[(self.item(position), self.source(position))[1] for position in self._probed()] for _ in range(2)]
        for position, first, second in zip(self._probed(), *sources, strict=True):
            if first != second:
                raise self._unsteady(f"example {position} came from {first!r} and, read again, from {second!r}")
        self._check_length()

    def _check_length(self) -> None:
        if len(self._dataset) != self._size:
            raise self._unsteady(f"it had {self._size} examples and has {len(self._dataset)} now")

    def _read(self, position: int) -> tuple[Any, Example, int]:
        """Raw input, model input and label."""
        with blame(f"key '{self._key}': example {position} cannot be read as (input, class number)", self._key):
            raw, label = self._dataset[position]
            number = int(label)
            if number != label:
                raise ValueError(f"label {label!r} is not a class number")
            if kind_of(raw) is InputKind.RECORD:
                check_scalars(raw)
        found, classes = self._transformed(raw, position), len(self._classifier.class_names)
        if not 0 <= number < classes:
            raise SpecError(
                f"example {self.example_id(position)!r} has label {number}, expected 0..{classes - 1} (class_names)",
                field="class_names",
            )
        # A dataset may fill one buffer for all of its examples.
        kept = raw.clone() if isinstance(raw, Tensor) else raw.copy() if isinstance(raw, np.ndarray) else raw
        return kept, found, number

    def batches(self, size: int, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches on the classifier's device, in the order of the positions (by default all)."""
        chosen = range(len(self)) if positions is None else positions
        for start in range(0, len(chosen), size):
            yield self.batch(chosen[start : start + size])

    def keep(self, memory: int) -> None:
        """Keeps the inputs of examples that are read from now on, as many as some bytes hold, for further batches."""
        self._kept = KeptExamples(memory)

    def batch(self, positions: Sequence[int]) -> Batch:
        """One batch of chosen examples, read where they are not kept."""
        device, kept = self._classifier.device, self._kept
        missing = [position for position in positions if position not in kept]
        read = dict(zip(missing, self._read_and_keep(missing), strict=True)) if missing else {}
        values, labels, keys = zip(*(read.get(place) or kept[place] for place in positions), strict=True)
        inputs = self.together(values).to(device)
        return Batch(inputs, torch.tensor(labels, device=device), torch.tensor(keys, device=device))

    def _read_and_keep(self, positions: Sequence[int]) -> list[tuple[Example, int, int]]:
        """Model input, label and key of each example."""
        _, inputs, labels = self.items(positions)
        keys = [id_key(self.example_id(position)) for position in positions]
        found = list(zip(inputs, labels, keys, strict=True))
        for position, example in zip(positions, found, strict=True):
            self._kept.add(position, *example)
        return found

    def example(self, position: int) -> Example:
        """Model input of one example, read where it is not kept."""
        if position in self._kept:
            return self._kept[position][0]
        [(found, _, _)] = self._read_and_keep([position])
        return found

    def sample(self, count: int, seed: int) -> list[int]:
        """Positions of a seeded sample without replacement, ascending."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self), generator=generator)[:count].sort().values.tolist()

    def alike(self, count: int, seed: int) -> list[int]:
        """Positions of a seeded sample of examples of one shape: the commonest for seed 0, for others the next."""
        if self._pad is None:
            return self.sample(count, seed)
        drawn = self.sample(PROBED, seed)
        shapes = sorted(self.by_shape(drawn), key=len, reverse=True)
        return [drawn[place] for place in shapes[seed % len(shapes)][:count]]

    def fingerprint(self) -> str:
        """SHA-256 of ids, labels and transformed inputs, in order; all are read where nobody has gathered it yet.

        Raises:
            SpecError: Two examples share an id, or an example is unusable.
        """
        if self._fingerprint is None:
            return self.gather([self.read(range(len(self)))])
        return self._fingerprint

    def read(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """Reads some examples, in whatever process, and says what they are, for `gather`.

        Returns:
            SHA-256 of each one's id, label and input (``digests``, [n, 32] uint8), `id_key` of its id (``ids``, [n]
            int64), and its first reading as `Readings.of` tells it.
        """
        digests, ids = bytearray(), list[int]()
        for start in range(0, len(positions), READ_AT_ONCE):
            some = positions[start : start + READ_AT_ONCE]
            for position, (example, label, key) in zip(some, self._read_and_keep(some), strict=True):
                named = f"{self.example_id(position)}|{label}|".encode()
                digests += hashlib.sha256(named + content(example)).digest()
                ids.append(key)
        self._check_length()
        rows = torch.frombuffer(digests, dtype=torch.uint8).reshape(len(ids), -1)
        return {"digests": rows, "ids": torch.tensor(ids), **self.readings.of(positions)}

    def gather(self, parts: Iterable[Mapping[str, Tensor]]) -> str:
        """The fingerprint, from what `read` says of all examples, in order; later readings are compared with these.

        Raises:
            SpecError: Two examples share an id, or there are others than there were.
        """
        whole, ids, start = hashlib.sha256(), list[Tensor](), 0
        for part in parts:
            whole.update(part["digests"].numpy().tobytes())
            ids.append(part["ids"])
            positions = range(start, start + len(ids[-1]))
            self.readings.add(positions, part)
            start = positions.stop
        self._check_ids(torch.cat(ids))
        self._check_length()
        self._fingerprint = whole.hexdigest()
        return self._fingerprint

    def compare(self, readings: Readings) -> None:
        """Compares later readings with another process's first ones, too, and looks at what was read here before.

        Raises:
            SpecError: An example was another one there.
        """
        for position in self.readings.differing(readings):
            raise self._unsteady(f"example {position} ({self.example_id(position)!r}) was another one elsewhere")
        known = readings.known()
        self.readings.add(known, readings.of(known))

    def _check_ids(self, keys: Tensor) -> None:
        """Refuses an id that two examples have; of those whose hashes are alone nothing is asked again."""
        order = keys.argsort(stable=True)
        same = keys[order][1:] == keys[order][:-1]
        pad = same.new_zeros(1)
        names = set[str]()
        for position in order[torch.cat([same, pad]) | torch.cat([pad, same])].sort().values.tolist():
            name = self.example_id(position)
            if name in names:
                raise SpecError(f"key '{self._key}': two examples have the id {name!r}", field=self._key)
            names.add(name)

    def _transformed(self, raw: Any, position: int) -> Example:
        try:
            found = model_input(self._classifier.transform, raw)
        except Exception as error:  # the user's code may raise anything
            key = self._key if kind_of(raw) in (InputKind.TENSOR, InputKind.TENSORS) else "transform"
            name = self.example_id(position)
            raise SpecError(f"key '{key}': it fails on example {name!r}: {error}", field=key) from error
        return found if self._first is None else self._like(self._first[1], found, position)

    def _like(self, first: Example, found: Example, position: int) -> Example:
        """An input of the first one's form, or an error."""
        if isinstance(found, Tensor) and isinstance(first, Tensor) and first.is_floating_point():
            found = found.float()
        form = form_of if self._pad else shape_key
        if form(found) != form(first):
            advice = "" if self._pad else "; where lengths differ, the transform needs a method `pad`"
            raise SpecError(
                f"example {self.example_id(position)!r} has {described(found)}, expected {sizes(first)} as the "
                f"first one{advice}",
                field=self._key,
            )
        return found

    def _read_first(self) -> tuple[Any, Example]:
        """The first example, raw and as the model takes it: as floats where it does not take whole numbers."""
        raw, found, label = self._read(0)
        self._pad = pad_of(self._classifier.transform, kind_of(raw))
        if isinstance(raw, Tensor) and isinstance(found, Tensor) and not _takes(self._classifier.model, found):
            found = found.float()
        inputs = stacked([found])
        self._check_finite([0], inputs)
        self._check_same([0], [raw], inputs, [label])
        return raw, found

    @property
    def signature(self) -> InputSignature:
        """What one input must look like; where lengths differ, by all that have been read."""
        assert self._first is not None
        return signature_of(self._classifier.transform, *self._first, self.readings.shapes if self._pad else [])


def _takes(model: nn.Module, example: Tensor) -> bool:
    """Whether a model takes an input as it is; one of floats, it does."""
    if example.is_floating_point():
        return True
    device = next((parameter.device for parameter in model.parameters()), example.device)
    try:
        with torch.no_grad():
            model(example[None].to(device))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return True


def _key(example_id: str, label: int) -> int:
    return id_key(f"{example_id}|{label}")


def id_key(example_id: str) -> int:
    """A signed 64-bit hash of an id: what seeded draws depend on, whatever the batch or the order."""
    return int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8], "little", signed=True)
