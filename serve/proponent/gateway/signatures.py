"""What a bundle's model takes, as GetModel tells it."""

from __future__ import annotations

from proponent.signature import Column, InputSignature, TensorSignature
from proponent.v1 import explanation_pb2 as pb


def signature_message(signature: InputSignature) -> pb.InputSignature:
    """A signature as a message; of a bundle from before it was kept, an empty one."""
    return pb.InputSignature(
        kind=f"INPUT_KIND_{signature.kind.name}" if signature.kind else "INPUT_KIND_UNSPECIFIED",
        max_text_length=signature.max_text_length,
        columns=map(_column, signature.columns),
        tensors=map(_tensor, signature.tensors),
    )


def _column(column: Column) -> pb.Column:
    kind = {"ANY": "UNSPECIFIED"}.get(column.type.name, column.type.name)
    return pb.Column(
        name=column.name, type=f"COLUMN_TYPE_{kind}", categories=column.categories, optional=column.optional
    )


def _tensor(tensor: TensorSignature) -> pb.TensorSignature:
    told = {name: value for name, value in vars(tensor).items() if name != "axes"}
    return pb.TensorSignature(**told)
