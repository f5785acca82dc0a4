"""What a model takes: the kind of its inputs, and the tensors or columns that each consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class InputKind(Enum):
    """Which kind of input a data set holds, and requests with it."""

    IMAGE = "image"
    TENSOR = "tensor"
    TEXT = "text"
    RECORD = "record"
    TENSORS = "tensors"


class ColumnType(Enum):
    """What the values of a column are; ``ANY``: it is not known."""

    ANY = "any"
    NUMBER = "number"
    CATEGORY = "category"
    FLAG = "flag"
    TEXT = "text"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        categories: The texts that a category may be; empty where any may.
        optional: Whether a record may lack it, or hold None.
    """

    name: str
    type: ColumnType = ColumnType.ANY
    categories: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class TensorSignature:
    """One tensor that a model takes.

    Attributes:
        name: Of the model's argument; empty for the only tensor of a model of one input.
        dtype: As torch prints it, without "torch.".
        shape: Without the batch dimension; -1 where any size will do.
        min_value: Smallest value of a tensor of whole numbers; None: any.
        max_value: Largest one.
        axes: A number for each axis: axes of one number, also of other tensors, had one size in every example before
            it was padded. Empty: not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    min_value: int | None = None
    max_value: int | None = None
    axes: tuple[int, ...] = ()

    @property
    def is_flag(self) -> bool:
        """Whether it holds nothing but 0 and 1, as masks do."""
        return self.dtype == "bool" or (self.min_value, self.max_value) == (0, 1)


@dataclass(frozen=True)
class InputSignature:
    """What the model takes.

    Attributes:
        shape: Shape of one input tensor, without the batch dimension; empty where there are several by name.
        mode: Pillow mode of an encoded image, "L" or "RGB".
        image_size: (width, height) of the training images, or empty where they differ.
        kind: Which kind of input the data set holds; None in bundles from before there was a choice.
        tensors: What the model is called with, after the transform.
        columns: Of a record; empty where the transform does not tell them.
        max_text_length: Most characters of a text; 0: no bound.
        whole_columns: Names of columns whose numbers are whole, and reach the transform as such: protobuf's records
            know no whole numbers.
    """

    shape: tuple[int, ...]
    mode: str
    image_size: tuple[int, ...] = ()
    kind: InputKind | None = None
    tensors: tuple[TensorSignature, ...] = ()
    columns: tuple[Column, ...] = ()
    max_text_length: int = 0
    whole_columns: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Of the only input tensor."""
        return self.tensors[0].dtype if self.tensors and not self.tensors[0].name else "float32"

    @property
    def is_named(self) -> bool:
        """Whether the model takes tensors by name."""
        return bool(self.tensors) and bool(self.tensors[0].name)

    @property
    def is_ragged(self) -> bool:
        """Whether inputs may have different sizes."""
        return any(-1 in tensor.shape for tensor in self.tensors)

    def described(self) -> dict[str, Any]:
        """What a manifest keeps beside shape, mode and size."""
        values = asdict(self)
        columns = [{**column, "type": column["type"].value} for column in values["columns"]]
        kind = self.kind.value if self.kind else ""
        return {
            "kind": kind,
            "tensors": list(values["tensors"]),
            "columns": columns,
            "max_text_length": self.max_text_length,
            "whole_columns": list(self.whole_columns),
        }


def signature_from(
    shape: tuple[int, ...], mode: str, image_size: tuple[int, ...], described: Mapping[str, Any]
) -> InputSignature:
    """The inverse of `InputSignature.described`; an empty mapping is that of a bundle from before it was kept."""
    tensors = (
        TensorSignature(**{**each, "shape": tuple(each["shape"]), "axes": tuple(each.get("axes", ()))})
        for each in described.get("tensors", ())
    )
    columns = (
        Column(each["name"], ColumnType(each["type"]), tuple(each["categories"]), each["optional"])
        for each in described.get("columns", ())
    )
    kind = InputKind(described["kind"]) if described.get("kind") else None
    longest, whole = described.get("max_text_length", 0), tuple(described.get("whole_columns", ()))
    return InputSignature(shape, mode, image_size, kind, tuple(tensors), tuple(columns), longest, whole)
