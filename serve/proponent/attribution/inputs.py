"""A batch of model inputs: one tensor, several by name, or examples of different lengths that are still to be padded.

Whatever calls a model calls it with one of the three, ``model(inputs)``; a model prepared by `taking_inputs` is then
run as ``model(tensor)`` or ``model(**named)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
Index = int | slice | None | Tensor | list[int]


@dataclass(frozen=True, eq=False)
class NamedInputs:
    """Tensors by the names of the model's arguments: of a batch, ``[B, ...]`` each, or of one example.

    What is asked of it is asked of each tensor, as of one tensor of inputs.
    """

    tensors: Mapping[str, Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> NamedInputs:
        """The same with each tensor changed."""
        return NamedInputs({name: change(tensor) for name, tensor in self.tensors.items()})

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @overload
    def __getitem__(self, index: str) -> Tensor: ...

    @overload
    def __getitem__(self, index: Index) -> NamedInputs: ...

    def __getitem__(self, index: str | Index) -> Tensor | NamedInputs:
        """One of the tensors by its name, or some of the examples."""
        return self.tensors[index] if isinstance(index, str) else self.map(lambda tensor: tensor[index])

    def __iter__(self) -> Iterator[NamedInputs]:
        return (self[position] for position in range(len(self)))

    @property
    def device(self) -> torch.device:
        """Of all of them."""
        return next(iter(self.tensors.values())).device

    def is_inference(self) -> bool:
        """Whether any was made in inference mode."""
        return any(tensor.is_inference() for tensor in self.tensors.values())

    def to(self, target: torch.device | str, *, non_blocking: bool = False) -> NamedInputs:
        """On another device."""
        return self.map(lambda tensor: tensor.to(target, non_blocking=non_blocking))

    def cpu(self) -> NamedInputs:
        """On the processor."""
        return self.map(Tensor.cpu)

    def clone(self) -> NamedInputs:
        """In memory of its own."""
        return self.map(Tensor.clone)

    def double(self) -> NamedInputs:
        """In float64 where it is floating-point."""
        return self.map(lambda tensor: cast(tensor, torch.float64))

    def flip(self, dimension: int) -> NamedInputs:
        """In reverse order along a dimension."""
        return self.map(lambda tensor: tensor.flip(dimension))


Example = Tensor | NamedInputs
"""One input without a batch dimension."""
Shape = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and sizes of an example's tensors."""
Pad = Callable[[Sequence[Any]], Any]
"""From several examples, each a tensor or a mapping of names to tensors, to such a batch; see `padded`."""


@dataclass(frozen=True, eq=False)
class RaggedInputs:
    """Examples of different shapes, which become one batch when a model is called with them."""

    examples: Sequence[Example]
    pad: Pad

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: slice | Tensor | list[int]) -> RaggedInputs:
        if isinstance(index, slice):
            return RaggedInputs(self.examples[index], self.pad)
        places = index.tolist() if isinstance(index, Tensor) else index
        return RaggedInputs([self.examples[place] for place in places], self.pad)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @property
    def device(self) -> torch.device:
        """Of all of them."""
        return self.examples[0].device

    def is_inference(self) -> bool:
        """Whether any was made in inference mode."""
        return any(example.is_inference() for example in self.examples)

    def map(self, change: Callable[[Any], Any]) -> RaggedInputs:
        """The same with each example changed."""
        return RaggedInputs([change(example) for example in self.examples], self.pad)

    def to(self, target: torch.device | str, *, non_blocking: bool = False) -> RaggedInputs:
        """On another device."""
        return self.map(lambda example: example.to(target, non_blocking=non_blocking))

    def cpu(self) -> RaggedInputs:
        """On the processor."""
        return self.map(lambda example: example.cpu())

    def clone(self) -> RaggedInputs:
        """The same: nothing is changed in place."""
        return self

    def double(self) -> RaggedInputs:
        """In float64 where it is floating-point."""
        return self.map(lambda example: cast(example, torch.float64))

    def flip(self, dimension: int) -> RaggedInputs:
        """In reverse order of the examples, the only dimension that they share."""
        assert dimension == 0
        return RaggedInputs(self.examples[::-1], self.pad)

    def together(self) -> Tensor | NamedInputs:
        """One batch."""
        return padded(self.examples, self.pad)


Inputs = Tensor | NamedInputs | RaggedInputs


def taking_inputs(model: M) -> M:
    """Makes a model take what `Inputs` is, wherever it is called from; copies of it do as well."""
    model.register_forward_pre_hook(_spread, with_kwargs=True)
    return model


def _spread(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    if len(args) != 1 or not isinstance(args[0], NamedInputs | RaggedInputs):
        return None
    inputs = args[0].together() if isinstance(args[0], RaggedInputs) else args[0]
    return ((), {**kwargs, **inputs.tensors}) if isinstance(inputs, NamedInputs) else ((inputs,), kwargs)


def padded(examples: Sequence[Example], pad: Pad) -> Tensor | NamedInputs:
    """Examples as one batch by a padding rule."""
    plain = [dict(each.tensors) if isinstance(each, NamedInputs) else each for each in examples]
    return as_inputs(pad(plain))


def as_inputs(given: Any) -> Tensor | NamedInputs:
    """A tensor, or tensors by name, from what a user's code gives: arrays and lists of numbers as well."""
    if not isinstance(given, Mapping):
        return torch.as_tensor(given)
    return NamedInputs({str(name): torch.as_tensor(value) for name, value in given.items()})


def stacked(examples: Sequence[Example]) -> Tensor | NamedInputs:
    """Examples of one shape as a batch."""
    first = examples[0]
    if isinstance(first, Tensor):
        return torch.stack([each for each in examples if isinstance(each, Tensor)])
    named = [each.tensors for each in examples if isinstance(each, NamedInputs)]
    return NamedInputs({name: torch.stack([each[name] for each in named]) for name in first.tensors})


def tensors_of(inputs: Tensor | NamedInputs) -> dict[str, Tensor]:
    """Its tensors by name; the only one has the empty name."""
    return {"": inputs} if isinstance(inputs, Tensor) else dict(inputs.tensors)


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """In another precision, where it is floating-point."""
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    return inputs.map(lambda part: cast(part, dtype))


def shapes(inputs: Inputs) -> str:
    """For people: ``[3, 5, 5]``, or ``{ids: [3, 16], mask: [3, 16]}``."""
    if isinstance(inputs, RaggedInputs):
        return f"{len(inputs)} x {shapes(inputs.examples[0])} and others"
    if isinstance(inputs, Tensor):
        return str(list(inputs.shape))
    return "{" + ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in inputs.tensors.items()) + "}"


def grouped(examples: Sequence[Example]) -> list[list[int]]:
    """Positions of the examples that have one shape, the shapes in the order in which they first come."""
    groups: dict[Shape, list[int]] = {}
    for position, example in enumerate(examples):
        groups.setdefault(shape_key(example), []).append(position)
    return list(groups.values())


def shape_key(example: Example) -> Shape:
    """What examples share that can be one batch as they are."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in tensors_of(example).items())


def form_of(example: Example) -> tuple[object, ...]:
    """What examples share that are made one batch by padding: names, kinds of numbers, numbers of dimensions."""
    return tuple((name, tensor.dtype, tensor.ndim) for name, tensor in tensors_of(example).items())


def described(example: Example) -> str:
    """For people: "shape", and `sizes`."""
    return f"shape {sizes(example)}"


def sizes(example: Example) -> str:
    """For people: names, shapes and, of whole numbers, dtypes."""
    return ", ".join(
        f"{list(tensor.shape)}"
        + ("" if tensor.is_floating_point() else f" of {str(tensor.dtype).removeprefix('torch.')}")
        + (f" ({name})" if name else "")
        for name, tensor in tensors_of(example).items()
    )


def finite(inputs: Inputs) -> list[bool]:
    """Of each example of a batch, whether all of its numbers are."""
    if isinstance(inputs, RaggedInputs):
        return [all(bool(t.isfinite().all()) for t in tensors_of(each).values()) for each in inputs.examples]
    found = [t.isfinite().flatten(1).all(dim=1) if t.ndim > 1 else t.isfinite() for t in tensors_of(inputs).values()]
    return torch.stack(found).all(dim=0).tolist()


def equal(one: Example, other: Example) -> bool:
    """Whether two examples have the same names, shapes and numbers."""
    left, right = tensors_of(one), tensors_of(other)
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def content(example: Example) -> bytes:
    """The numbers of an example, and what says how they lie where it is more than one tensor."""
    if isinstance(example, Tensor):
        return example.cpu().numpy().tobytes()
    named = sorted(example.tensors.items())
    return b"".join(f"{n}|{t.dtype}|{list(t.shape)}|".encode() + t.cpu().numpy().tobytes() for n, t in named)
