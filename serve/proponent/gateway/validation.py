"""What is checked before a request costs anything: the proto's own rules, sizes, shapes and class ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import protovalidate
from google.protobuf.message import DecodeError, Message

from proponent.errors import InvalidInputError
from proponent.gateway.settings import Settings
from proponent.index.bundle import Manifest
from proponent.input_checks import (
    check_kind,
    check_names,
    check_record,
    check_sizes,
    check_text,
    only_tensor,
    tensor_values,
)
from proponent.options import DEFAULT_TOP_K, Measure
from proponent.signature import TensorSignature
from proponent.tensor_messages import JSON_NUMBERS, JSON_TRUTH, of_json, record_of
from proponent.v1 import explanation_pb2 as pb

_ENUMS = {
    "measures": pb.Measure,
    "measure": pb.Measure,
    "view": pb.View,
    "redundancy": pb.Redundancy,
    "side": pb.Side,
    "order_by": pb.OrderBy,
}
_REASONS = {
    "measures": "MEASURE_UNKNOWN",
    "measure": "MEASURE_UNKNOWN",
    "model": "MODEL_MISSING",
    "input": "INPUT_MISSING",
    "text": "TEXT_EMPTY",
    "top_k": "TOP_K_INVALID",
}
_LISTS = 2
M = TypeVar("M", bound=Message)
_validator = protovalidate.Validator()


def parse(kind: type[M], data: bytes) -> M:
    """A message of some kind.

    Raises:
        InvalidInputError: The bytes are not such a message.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInputError(
            f"{len(data)} bytes are not a serialized {kind.DESCRIPTOR.full_name}", reason="MESSAGE_MALFORMED"
        ) from None


def check_rules(request: Message) -> None:
    """Checks the rules written in the proto; the first one broken is reported.

    Raises:
        InvalidInputError: Names the field's path, its value and what was expected.
    """
    violations = _validator.collect_violations(request, fail_fast=True)
    if violations:
        raise _violated(violations[0])


def check_explanation(
    request: pb.ExplainRequest, manifest: Manifest, settings: Settings, path: str = "", lists: bool = True
) -> None:
    """Checks an explanation request against the model; ``lists`` False where it asks for no top-k lists."""
    check_input(request, manifest, settings, path)
    _check_target(request, len(manifest.class_names), path)
    _check_filter(request.filter, len(manifest.class_names), f"{path}filter")
    if lists:
        _check_reply_size(request, manifest, settings, path)


def check_input(
    request: pb.PredictRequest | pb.ExplainRequest, manifest: Manifest, settings: Settings, path: str
) -> None:
    """Checks whether the model takes such an input, an image's size, and all of anything else.

    Numbers of JSON, which have no dtype of their own, get the model's.
    """
    kind, signature = request.WhichOneof("input"), manifest.signature
    check_kind(kind or "", signature, path)
    if kind == "encoded_image":
        _check_image(request.encoded_image, settings, path)
    elif kind == "text":
        check_text(request.text, signature, path)
    elif kind == "record":
        check_record(record_of(request.record), signature, path)
    elif kind == "tensor":
        _check_tensor(request.tensor, only_tensor(signature), settings, f"{path}tensor")
    else:
        for name, expected in check_names(list(request.tensors.tensors), signature, path).items():
            _check_tensor(request.tensors.tensors[name], expected, settings, f"{path}tensors.{name}")
        check_sizes({name: sent.shape for name, sent in request.tensors.tensors.items()}, signature, path)


def _check_image(image: bytes, settings: Settings, path: str) -> None:
    if len(image) > settings.max_image_bytes:
        raise InvalidInputError(
            f"image has {len(image)} bytes, expected at most {settings.max_image_bytes}",
            field=f"{path}encoded_image",
            reason="IMAGE_TOO_LARGE",
        )


def check_example_filter(request: pb.ListExamplesRequest, classes: int) -> None:
    """Checks which examples are to be listed."""
    _check_classes(request.class_ids, classes, "class_ids")
    _check_classes(request.predicted_class_ids, classes, "predicted_class_ids")
    both = request.HasField("min_self_influence") and request.HasField("max_self_influence")
    if both and request.min_self_influence > request.max_self_influence:
        raise _bad(
            f"max_self_influence is {request.max_self_influence:g}, expected at least min_self_influence "
            f"({request.min_self_influence:g})",
            "max_self_influence",
            "",
        )


def check_group_size(count: int, limit: int, field: str) -> None:
    """Checks a number of rows asked for."""
    if count > limit:
        raise InvalidInputError(f"field {field!r} has value {count}, expected at most {limit}", field=field)


def _check_tensor(tensor: pb.Tensor, expected: TensorSignature, settings: Settings, path: str) -> None:
    size = len(tensor.data)
    if size > settings.max_tensor_bytes:
        raise _bad(
            f"tensor has {size} bytes, expected at most {settings.max_tensor_bytes}",
            f"{path}.data",
            "TENSOR_TOO_LARGE",
        )
    if tensor.dtype in (JSON_NUMBERS, JSON_TRUTH):
        tensor.CopyFrom(of_json(tensor, expected, path))
    tensor_values(tensor.shape, tensor.dtype, tensor.data, expected, path)


def _check_target(request: pb.ExplainRequest, classes: int, path: str) -> None:
    kind = request.target.WhichOneof("kind")
    if kind == "class_id":
        _check_classes([request.target.class_id], classes, f"{path}target.class_id")
    elif kind == "contrast":
        contrast = request.target.contrast
        _check_classes([contrast.for_class_id], classes, f"{path}target.contrast.for_class_id")
        _check_classes([contrast.against_class_id], classes, f"{path}target.contrast.against_class_id")
        if contrast.for_class_id == contrast.against_class_id:
            raise _bad(
                f"contrast has class id {contrast.for_class_id} on both sides, expected two different classes",
                f"{path}target.contrast.against_class_id",
                "CONTRAST_SAME_CLASS",
            )


def _check_filter(chosen: pb.Filter, classes: int, path: str) -> None:
    _check_classes(chosen.allow_class_ids, classes, f"{path}.allow_class_ids")
    _check_classes(chosen.deny_class_ids, classes, f"{path}.deny_class_ids")
    for index, example_id in enumerate(chosen.exclude_example_ids):
        if not example_id:
            raise _bad(
                "example id is empty, expected the id of a training example",
                f"{path}.exclude_example_ids[{index}]",
                "",
            )


def _check_classes(class_ids: Iterable[int], classes: int, path: str) -> None:
    for class_id in class_ids:
        if not 0 <= class_id < classes:
            raise _bad(f"class id {class_id} is unknown, expected 0 to {classes - 1}", path, "CLASS_UNKNOWN")


def check_replies(requests: Sequence[pb.ExplainRequest], manifest: Manifest, settings: Settings) -> None:
    """Checks what the answers to several requests would hold, since they travel in one reply.

    Raises:
        InvalidInputError: More training examples than one reply may hold.
    """
    sizes = [_reply_size(request, manifest, settings) for request in requests]
    if sum(asked / allowed for asked, allowed in sizes) > 1:
        raise _bad(
            f"{len(sizes)} instances would return {sum(asked for asked, _ in sizes)} examples in one reply, "
            f"expected at most {settings.max_influences}, or {settings.max_thumbnails} with thumbnails",
            "instances",
            "REPLY_TOO_LARGE",
        )


def _check_reply_size(request: pb.ExplainRequest, manifest: Manifest, settings: Settings, path: str) -> None:
    asked, allowed = _reply_size(request, manifest, settings)
    if asked > allowed:
        message = f"top_k {_top_k(request)} would return {asked} examples, expected at most {allowed}"
        raise _bad(message, f"{path}top_k", "REPLY_TOO_LARGE")


def _reply_size(request: pb.ExplainRequest, manifest: Manifest, settings: Settings) -> tuple[int, int]:
    """Training examples that the answer may hold, and the most that a reply of its kind may."""
    allowed = settings.max_thumbnails if request.view == pb.VIEW_THUMBNAIL else settings.max_influences
    return max(0, list_length(request, manifest)) * measure_count(request) * _LISTS, allowed


def list_length(request: pb.ExplainRequest, manifest: Manifest) -> int:
    """Training examples in each list of the answer."""
    return min(_top_k(request), manifest.train_size)


def _top_k(request: pb.ExplainRequest) -> int:
    return request.top_k if request.HasField("top_k") else DEFAULT_TOP_K


def measure_count(request: pb.ExplainRequest) -> int:
    """Measures that the answer holds."""
    return len(set(request.measures) - {pb.MEASURE_UNSPECIFIED}) or len(Measure)


def _violated(violation: Any) -> InvalidInputError:
    elements = violation.proto.field.elements
    path = ".".join(_element(element) for element in elements)
    path = re.sub(
        r"tensors\.tensors(?:\[(.*?)\])?", lambda found: f"tensors.{found[1]}" if found[1] else "tensors", path
    )
    name = elements[-1].field_name
    enum = _ENUMS.get(name)
    expected = f"expected one of {', '.join(enum.keys())}" if enum else violation.proto.message
    value = repr(violation.field_value)
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    stated = "is missing" if violation.proto.rule_id == "required" else f"has value {shown}"
    return _bad(f"field {path!r} {stated}: {expected}", path, _REASONS.get(name, ""))


def _element(element: Any) -> str:
    subscript = element.subscript
    return str(element.field_name) if subscript is None else f"{element.field_name}[{subscript.value}]"


def _bad(message: str, field: str, reason: str) -> InvalidInputError:
    return InvalidInputError(message, field=field, reason=reason)
