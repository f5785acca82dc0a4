"""What each example was when it was first read, so that a dataset that changes shows itself.

A rebuild reads every example several times and takes it for the same one each time. Keeping the inputs would take
the data's own size, so a label, an id and one projection of the input are kept: 16 bytes an example.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proponent.attribution.inputs import (
    Inputs,
    NamedInputs,
    RaggedInputs,
    Shape,
    grouped,
    shape_key,
    stacked,
    tensors_of,
)

SMALL = 1e-3
"""Of an input's root mean square: above it a number counts by its logarithm, so that large ones do not hide others
(an age beside a salary)."""
_GOLDEN = -7046029254386353131
"""2**64 by the golden ratio, as a signed number: multiples of it, without what overflows, are spread evenly."""
TOLERANCE = 1e-4
"""Relative change of an input below which it counts as the same: rounding stays far below, augmentation far above."""


class Readings:
    """First readings of the examples of a dataset."""

    def __init__(self, size: int) -> None:
        self._keys = torch.zeros(size, dtype=torch.int64)
        self._projections = torch.full((size,), torch.nan, dtype=torch.float64)
        self._patterns: dict[int, Tensor] = {}
        self._shapes: list[Shape] = []
        self._shape_of = torch.zeros(size, dtype=torch.int32)
        self._wholes: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def shapes(self) -> list[Shape]:
        """Those that examples were seen with, as `shape_key` tells them."""
        return list(self._shapes)

    @property
    def wholes(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest value, at most and at least 0, of each tensor of whole numbers, by its name."""
        return dict(self._wholes)

    def known(self) -> list[int]:
        """Positions of the examples that have been read."""
        return (~self._projections.isnan()).nonzero().flatten().tolist()

    def unread(self, positions: Sequence[int]) -> list[int]:
        """Those of some positions that have not been read."""
        return [p for p in positions if bool(self._projections[p].isnan())]

    def by_shape(self, positions: Sequence[int]) -> list[list[int]]:
        """Places in some positions that have been read, for each shape there, in order within each.

        The order of the shapes is their own: it does not depend on who has read what first.
        """
        found = self._shape_of[torch.tensor(positions)]
        numbers = sorted(set(found.tolist()), key=self._shapes.__getitem__)
        return [(found == number).nonzero().flatten().tolist() for number in numbers]

    def largest(self) -> int:
        """The first position of the shape with the most numbers."""
        shape = max(self._shapes, key=lambda each: (sum(math.prod(sizes) for _, sizes in each), each))
        seen = ~self._projections.isnan() & (self._shape_of == self._shapes.index(shape))
        return int(seen.nonzero()[0])

    def of(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """First readings of some examples that have been read, as tensors, for `add`."""
        places = torch.tensor(positions, dtype=torch.int64)
        used, numbers = torch.unique(self._shape_of[places], return_inverse=True)
        told = {"shapes": [self._shapes[number] for number in used.tolist()], "wholes": self._wholes}
        return {
            "keys": self._keys[places],
            "projections": self._projections[places],
            "shape_of": numbers,
            "told": torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8),
        }

    def add(self, positions: Sequence[int], found: Mapping[str, Tensor]) -> None:
        """Takes what `of` says of some examples, in this process or another, for their first readings."""
        places, told = torch.tensor(positions, dtype=torch.int64), json.loads(found["told"].numpy().tobytes())
        shapes = [tuple((name, tuple(sizes)) for name, sizes in shape) for shape in told["shapes"]]
        numbers = torch.tensor([self._number(shape) for shape in shapes], dtype=torch.int32)
        self._shape_of[places] = numbers[found["shape_of"]]
        self._keys[places], self._projections[places] = found["keys"], found["projections"]
        for name, (low, high) in told["wholes"].items():
            least, most = self._wholes.get(name, (0, 0))
            self._wholes[name] = min(least, low), max(most, high)

    def differing(self, other: Readings) -> list[int]:
        """Positions of examples that have been read in both, but were not the same."""
        mine, theirs = self._projections, other._projections
        changed = (mine - theirs).abs() > TOLERANCE * torch.maximum(mine.abs(), theirs.abs())
        seen = ~mine.isnan() & ~theirs.isnan()
        return (seen & (changed | (self._keys != other._keys))).nonzero().flatten().tolist()

    def changes(self, positions: Sequence[int], keys: Sequence[int], values: Inputs) -> list[str]:
        """What differs from each example's first reading: "id or label", "input" or, also at the first, nothing.

        Args:
            positions: Of n examples.
            keys: Of their ids and labels.
            values: The model's inputs, [n, ...]; finite.
        """
        if isinstance(values, RaggedInputs):
            return self._changes_by_shape(positions, keys, values)
        self._shape_of[torch.tensor(positions)] = self._number(shape_key(next(iter(values))))
        self._widen(values)
        flat = _flat(values)
        projections, scales = flat @ self._noise(flat.shape[1]), _root_mean_square(flat)[:, 0]
        places, given = torch.tensor(positions), torch.tensor(keys)
        first = self._projections[places]
        is_new = first.isnan()
        if bool(is_new.any()):
            self._keys[places[is_new]], self._projections[places[is_new]] = given[is_new], projections[is_new]
        renamed = ~is_new & (self._keys[places] != given)
        changed = ~is_new & ((projections - first).abs() > TOLERANCE * torch.maximum(scales, first.abs()))
        return [
            "id or label" if name else "input" if value else ""
            for name, value in zip(renamed.tolist(), changed.tolist(), strict=True)
        ]

    def _changes_by_shape(self, positions: Sequence[int], keys: Sequence[int], values: RaggedInputs) -> list[str]:
        found = [""] * len(positions)
        for places in grouped(values.examples):
            same = stacked([values.examples[place] for place in places])
            changes = self.changes([positions[p] for p in places], [keys[p] for p in places], same)
            for place, change in zip(places, changes, strict=True):
                found[place] = change
        return found

    def _widen(self, values: Tensor | NamedInputs) -> None:
        for name, tensor in tensors_of(values).items():
            if not tensor.is_floating_point() and tensor.numel():
                whole, (low, high) = tensor.long(), self._wholes.get(name, (0, 0))
                self._wholes[name] = min(low, int(whole.min())), max(high, int(whole.max()))

    def _number(self, shape: Shape) -> int:
        if shape not in self._shapes:
            self._shapes.append(shape)
        return self._shapes.index(shape)

    def _noise(self, size: int) -> Tensor:
        """A seeded direction: it is unlikely that a change does not show in it, and that no other change does."""
        if size not in self._patterns:
            noise = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self._patterns[size] = noise / max(size, 1) ** 0.5
        return self._patterns[size]


def _flat(values: Tensor | NamedInputs) -> Tensor:
    """All numbers of each example, [n, m] float64, so that a change of any one shows in a projection."""
    rows = [tensor.detach().reshape(len(tensor), -1).cpu() for tensor in tensors_of(values).values()]
    wholes = [_scattered(row) for row in rows if not row.is_floating_point()]
    if len(wholes) == len(rows):
        return torch.cat(wholes, dim=1)
    numbers = _compressed(torch.cat([row.double() for row in rows if row.is_floating_point()], dim=1))
    size = _root_mean_square(numbers)
    return torch.cat([numbers, *(whole * size.where(size > 0, 1) for whole in wholes)], dim=1)


def _scattered(wholes: Tensor) -> Tensor:
    """Whole numbers as numbers between -1 and 1 that say nothing of their size: of ids, the next is another one."""
    return (wholes.long() * _GOLDEN).double() / 2**63


def _compressed(flat: Tensor) -> Tensor:
    """Rows as large as before as a whole, but with numbers of different sizes brought together."""
    size = _root_mean_square(flat)
    # Not asinh, for which processors have no instructions: it took most of a reading.
    return (flat.abs() / (SMALL * size).clamp(min=torch.finfo(flat.dtype).tiny)).log1p_().copysign_(flat).mul_(size)


def _root_mean_square(flat: Tensor) -> Tensor:
    """Of each row of [n, m], [n, 1]."""
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return norms / math.sqrt(max(flat.shape[1], 1))
