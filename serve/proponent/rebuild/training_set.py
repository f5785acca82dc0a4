"""The training set as a rebuild reads it: transformed tensors, labels and stable ids in bounded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from proponent.attribution.user_code import blame
from proponent.classifier import Classifier, call_factory
from proponent.errors import SpecError
from proponent.rebuild.readings import Readings
from proponent.signature import InputSignature
from proponent.spec import Factory

PROBED = 64
"""Examples that are read twice at once: one that changes at every tenth reading goes unseen with probability 2e-6.
A rarer change shows in the passes after, which compare every example with its first reading."""
READ_AT_ONCE = 64
"""Examples that are read together where nothing is computed on them."""


@dataclass(frozen=True)
class Batch:
    """Some examples; ``keys`` are int64 hashes of their ids, for seeded draws."""

    inputs: Tensor
    labels: Tensor
    keys: Tensor

    def split(self, size: int) -> Iterator[Batch]:
        """Parts of at most ``size`` examples, each in memory of its own: its alignment steers how sums are formed."""
        for start in range(0, len(self.labels), size):
            part = slice(start, start + size)
            yield Batch(self.inputs[part].clone(), self.labels[part].clone(), self.keys[part].clone())


def example_id_of(dataset: Any, position: int) -> str:
    """What a dataset's ``example_id`` says, or the position where it has none."""
    name = getattr(dataset, "example_id", None)
    return str(name(position)) if name else str(position)


def source_of(dataset: Any, position: int) -> str:
    """What a dataset's ``source`` says, or an empty text where it has none."""
    source = getattr(dataset, "source", None)
    return str(source(position)) if source else ""


class FilteredDataset:
    """A map-style dataset whose forgotten examples cannot be reached; the others keep their ids and order."""

    def __init__(self, dataset: Any, forgotten: Collection[str]) -> None:
        self._dataset = dataset
        self._positions = [i for i in range(len(dataset)) if example_id_of(dataset, i) not in forgotten]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> Any:
        return self._dataset[self._positions[position]]

    def example_id(self, position: int) -> str:
        """Id of an example, by the dataset or by its place there."""
        return example_id_of(self._dataset, self._positions[position])

    def source(self, position: int) -> str:
        """Where the example comes from, or an empty text."""
        return source_of(self._dataset, self._positions[position])


class TrainingSet:
    """A map-style dataset of (image or tensor, label) and the classifier's transform.

    Items that are tensors already are taken as model inputs. A dataset may offer ``example_id(i)`` and
    ``source(i)``; without them the position is the id. Every reading of an example must give the same.
    """

    def __init__(
        self,
        dataset: Any,
        classifier: Classifier,
        key: str = "dataset",
        *,
        forgotten: Collection[str] = (),
        readings: Readings | None = None,
    ) -> None:
        self.forgotten = frozenset(forgotten)
        if self.forgotten:
            dataset = FilteredDataset(dataset, self.forgotten)
        self._dataset = dataset
        self._classifier = classifier
        self._key = key
        self._fingerprint: str | None = None
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
            raise SpecError(
                f"key '{key}.factory': it returned {type(dataset).__name__}, expected a map-style dataset "
                "with at least one example",
                field=f"{key}.factory",
            )
        self._size = len(dataset)
        self.readings = readings or Readings(self._size)
        self.signature = self._read_signature()
        if readings is None:
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
    ) -> TrainingSet:
        """Calls a dataset factory of the classifier's spec; forgotten examples are left out by id.

        With the ``readings`` of another process the examples must be what they were there.
        """
        dataset = call_factory(classifier.spec, factory, key)
        return cls(dataset, classifier, key, forgotten=forgotten, readings=readings)

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

    def item(self, position: int) -> tuple[Any, Tensor, int]:
        """Raw image or tensor, model input and label of one example; raises what `items` raises."""
        [raw], inputs, [label] = self.items([position])
        return raw, inputs[0], label

    def items(self, positions: Sequence[int]) -> tuple[list[Any], Tensor, list[int]]:
        """Raw images or tensors, model inputs [n, ...] and labels of some examples, at least one.

        Raises:
            SpecError: A transform fails, a shape differs from the first example's, a tensor is not finite, a label
                is not a class, or an example is not what it was when it was read before.
        """
        read = [self._read(position) for position in positions]
        raws, labels = [raw for raw, _, _ in read], [label for _, _, label in read]
        inputs = torch.stack([tensor for _, tensor, _ in read])
        self._check_finite(positions, inputs)
        self._check_same(positions, raws, inputs, labels)
        return raws, inputs, labels

    def _check_finite(self, positions: Sequence[int], inputs: Tensor) -> None:
        finite = torch.isfinite(inputs).flatten(1).all(dim=1) if inputs.ndim > 1 else torch.isfinite(inputs)
        for position in (position for position, good in zip(positions, finite.tolist(), strict=True) if not good):
            raise SpecError(f"example {self.example_id(position)!r} holds NaN or infinite values", field=self._key)

    def _check_same(
        self, positions: Sequence[int], raws: Sequence[Any], inputs: Tensor, labels: Sequence[int]
    ) -> None:
        keys = [_key(self.example_id(position), label) for position, label in zip(positions, labels, strict=True)]
        found = self.readings.changes(positions, keys, inputs)
        for position, change, raw, tensor in zip(positions, found, raws, inputs, strict=True):
            if not change:
                continue
            named = f"example {position} ({self.example_id(position)!r})"
            if not isinstance(raw, Tensor) and not torch.equal(tensor, self._transformed(raw, position)):
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

    def _read(self, position: int) -> tuple[Any, Tensor, int]:
        """Raw image or tensor, model input and label."""
        with blame(
            f"key '{self._key}': example {position} cannot be read as (image or tensor, class number)", self._key
        ):
            raw, label = self._dataset[position]
            number = int(label)
            if number != label:
                raise ValueError(f"label {label!r} is not a class number")
        tensor, classes = self._transformed(raw, position), len(self._classifier.class_names)
        if not 0 <= number < classes:
            raise SpecError(
                f"example {self.example_id(position)!r} has label {number}, expected 0..{classes - 1} (class_names)",
                field="class_names",
            )
        # A dataset may fill one buffer for all of its examples.
        kept = raw.clone() if isinstance(raw, Tensor) else raw.copy() if isinstance(raw, np.ndarray) else raw
        return kept, tensor, number

    def batches(self, size: int, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches on the classifier's device, in the order of the positions (by default all)."""
        chosen = range(len(self)) if positions is None else positions
        for start in range(0, len(chosen), size):
            yield self.batch(chosen[start : start + size])

    def batch(self, positions: Sequence[int]) -> Batch:
        """One batch of chosen examples."""
        device = self._classifier.device
        _, inputs, labels = self.items(positions)
        keys = [id_key(self.example_id(position)) for position in positions]
        return Batch(inputs.to(device), torch.tensor(labels, device=device), torch.tensor(keys, device=device))

    def chunks(self) -> Iterator[range]:
        """Positions of all examples, a few at a time."""
        for start in range(0, len(self), READ_AT_ONCE):
            yield range(start, min(start + READ_AT_ONCE, len(self)))

    def sample(self, count: int, seed: int) -> list[int]:
        """Positions of a seeded sample without replacement, ascending."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self), generator=generator)[:count].sort().values.tolist()

    def fingerprint(self) -> str:
        """SHA-256 of ids, labels and transformed inputs, in order; read once.

        Raises:
            SpecError: Two examples share an id, or an example is unusable.
        """
        if self._fingerprint is None:
            self._fingerprint = self._digest()
        return self._fingerprint

    def _digest(self) -> str:
        digest, ids = hashlib.sha256(), set[str]()
        for positions in self.chunks():
            _, inputs, labels = self.items(positions)
            for position, tensor, label in zip(positions, inputs, labels, strict=True):
                name = self.example_id(position)
                if name in ids:
                    raise SpecError(f"key '{self._key}': two examples have the id {name!r}", field=self._key)
                ids.add(name)
                digest.update(f"{name}|{label}|".encode())
                digest.update(tensor.cpu().numpy().tobytes())
        self._check_length()
        return digest.hexdigest()

    def _transformed(self, raw: Any, position: int) -> Tensor:
        tensor = raw if isinstance(raw, Tensor) else self._apply(raw, position)
        tensor = tensor.detach().to(torch.float32, copy=True)  # a buffer, too
        expected = getattr(self, "signature", None)
        if expected is not None and tuple(tensor.shape) != expected.shape:
            raise SpecError(
                f"example {self.example_id(position)!r} has shape {list(tensor.shape)}, expected "
                f"{list(expected.shape)} as the first one",
                field=self._key,
            )
        return tensor

    def _apply(self, raw: Any, position: int) -> Tensor:
        try:
            image = raw if isinstance(raw, Image.Image) else Image.fromarray(raw)
            return torch.as_tensor(self._classifier.transform(image))
        except Exception as error:  # the user's code may raise anything
            name = self.example_id(position)
            raise SpecError(f"key 'transform': it fails on example {name!r}: {error}", field="transform") from error

    def _read_signature(self) -> InputSignature:
        raw, tensor, _ = self.item(0)
        channels = {1: "L", 3: "RGB"}
        guessed = channels.get(tensor.shape[0] if tensor.ndim == 3 else 1, "RGB")
        if isinstance(raw, Tensor):
            return InputSignature(tuple(tensor.shape), guessed)
        image = raw if isinstance(raw, Image.Image) else Image.fromarray(raw)
        return InputSignature(tuple(tensor.shape), image.mode, image.size)


def _key(example_id: str, label: int) -> int:
    return id_key(f"{example_id}|{label}")


def id_key(example_id: str) -> int:
    """A signed 64-bit hash of an id: what seeded draws depend on, whatever the batch or the order."""
    return int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8], "little", signed=True)
