"""From a request of the protocol to requests of the service: one for each row of its batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proponent.errors import InvalidInputError
from proponent.gateway.http.instances import structured_options
from proponent.gateway.http.json_values import bad_field
from proponent.gateway.http.protojson import parse_query
from proponent.gateway.open_inference.inputs import TENSOR, TEXT, Expected, add_row, expected_inputs, set_named
from proponent.gateway.open_inference.outputs import EXPLANATION, OUTPUTS, PREDICTION_OUTPUTS, Output, output_named
from proponent.gateway.open_inference.tensors import input_rows
from proponent.gateway.settings import Settings
from proponent.index.bundle import Manifest
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip

BINARY_OUTPUT = "binary_data_output"
EXPLAIN, TIMEOUT = "explain", "timeout"
# Of no effect here, or read where the transport is.
_OTHER_PARAMETERS = (BINARY_OUTPUT, EXPLAIN, TIMEOUT, "priority", "content_type")
# What would change the meaning of a tensor, and is not done.
_REFUSED = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification")
_MOST_OUTPUTS = 2 * len(OUTPUTS)


@dataclass(frozen=True)
class Query:
    """What is asked of a batch.

    Attributes:
        outputs: In the order asked for.
        explains: Whether the inputs are to be explained.
        timeout_s: Time that the caller gives, None where it names none.
    """

    outputs: Sequence[Output]
    explains: bool
    timeout_s: float | None

    @classmethod
    def of(cls, request: oip.ModelInferRequest) -> Query:
        """Reads outputs and parameters; raises InvalidInputError."""
        _refuse_outputs(request)
        named = [output_named(each.name, f"outputs[{i}].name") for i, each in enumerate(request.outputs)]
        outputs = named or list(PREDICTION_OUTPUTS.values())
        if _flag(request.parameters, EXPLAIN) and not any(output.explains for output in outputs):
            outputs.append(OUTPUTS[EXPLANATION])
        return cls(outputs, any(output.explains for output in outputs), _timeout_s(request.parameters))


def requests_of(request: oip.ModelInferRequest, query: Query, manifest: Manifest, settings: Settings) -> list[Any]:
    """A PredictRequest, or ExplainRequest where the inputs are to be explained, for each row.

    Raises:
        InvalidInputError: Names the part of the request at fault, its value and what was expected.
    """
    chosen = _check_inputs(request, manifest, settings)
    asked: Any = pb.ExplainRequest() if query.explains else pb.PredictRequest()
    parse_query(_options(request.parameters), asked, request.model_name, "parameters.")
    if asked.WhichOneof("input"):
        raise bad_field("hold an input, expected it among the inputs", "parameters")
    if query.explains:
        _add_measures(asked, query.outputs)
    columns = [input_rows(request, position, f"inputs[{position}]") for position in range(len(chosen))]
    shapes = [list(each.shape)[1:] for each in request.inputs]
    found = [_copied(asked) for _ in columns[0]]
    for number, (each, row) in enumerate(zip(found, zip(*columns, strict=True), strict=True)):
        try:
            add_row(each, chosen, row, shapes)
        except InvalidInputError as error:
            raise row_error(error, request, number) from None
    return found


def _copied(asked: Any) -> Any:
    found = type(asked)()
    found.CopyFrom(asked)
    return found


def _add_measures(asked: pb.ExplainRequest, outputs: Sequence[Output]) -> None:
    """Asks for the measures that the outputs need; where the whole explanation is one of them, for all by default."""
    whole = any(output.name == EXPLANATION for output in outputs)
    if not asked.measures and whole:
        return
    needed: Any = {output.measure for output in outputs if output.measure}
    asked.measures.extend(sorted(needed - set(asked.measures)))


def _check_inputs(request: oip.ModelInferRequest, manifest: Manifest, settings: Settings) -> list[Expected]:
    """The inputs that a request holds, in its order, after a check of names, datatypes and shapes."""
    sets = expected_inputs(manifest.signature)
    names = [each.name for each in request.inputs]
    known = set_named(sets, [(each.name, each.datatype) for each in request.inputs])
    _check_names(names, known, sets)
    for position, tensor in enumerate(request.inputs):
        _check_input(tensor, known[tensor.name], f"inputs[{position}]", settings, request.inputs[0].shape[:1])
    return [known[name] for name in names]


def _check_names(names: Sequence[str], known: Mapping[str, Expected], sets: Sequence[Sequence[Expected]]) -> None:
    told = " or ".join(", ".join(each.told() for each in one) for one in sets)
    elsewhere = {each.name for one in sets for each in one}
    for position, name in enumerate(names):
        path = f"inputs[{position}].name"
        if name not in known:
            why = "goes with other inputs" if name in elsewhere else "is unknown"
            raise bad_field(f"input {name!r:.80} {why}, expected {told}", path, "INPUT_UNKNOWN")
        if name in names[:position]:
            raise bad_field(f"input {name!r} is there twice, expected it once", path, "INPUT_TWICE")
    lacking = [name for name, each in known.items() if not each.optional and name not in names]
    if not names or lacking:
        shown = ", ".join(repr(name) for name in lacking[:3]) if names else "every input"
        raise bad_field(f"{shown} is missing, expected {told}", "inputs", "INPUT_MISSING")


def _check_input(
    tensor: oip.ModelInferRequest.InferInputTensor,
    expected: Expected,
    path: str,
    settings: Settings,
    rows: Sequence[int],
) -> None:
    if tensor.datatype != expected.datatype:
        message = f"datatype is {tensor.datatype!r:.80}, expected {expected.datatype!r}"
        raise bad_field(message, f"{path}.datatype", "TENSOR_WRONG_DTYPE")
    _refuse(tensor.parameters, f"{path}.parameters")
    shape, row = list(tensor.shape), list(expected.shape)
    fits = len(shape) == len(row) + 1 and all(
        want in (-1, size) and size > 0 for size, want in zip(shape[1:], row, strict=True)
    )
    if not fits and not (expected.tensor is None and shape[1:] == [1]):
        sizes = ", each size above 0" if 0 in shape[1:] else ", a batch first" if len(shape) == len(row) else ""
        raise bad_field(f"shape is {shape[:9]}, expected {[-1, *row]}{sizes}", f"{path}.shape", "TENSOR_WRONG_SHAPE")
    if not 1 <= shape[0] <= settings.max_instances:
        message = f"a batch of {shape[0]}, expected 1 to {settings.max_instances}"
        raise bad_field(message, f"{path}.shape[0]", "TENSOR_WRONG_SHAPE")
    if shape[:1] != list(rows):
        raise bad_field(
            f"a batch of {shape[0]}, but the first input's is {rows[0]}", f"{path}.shape[0]", "TENSOR_WRONG_SHAPE"
        )


def _options(parameters: Mapping[str, oip.InferParameter]) -> dict[str, Any]:
    """The parameters that are options of the service's own request."""
    return structured_options(list(_texts(parameters)))


def _texts(parameters: Mapping[str, oip.InferParameter]) -> Iterator[tuple[str, str]]:
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise bad_field("has no value", f"parameters.{name}")
        if name not in _OTHER_PARAMETERS:
            value = getattr(parameter, kind)
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _flag(parameters: Mapping[str, oip.InferParameter], name: str) -> bool:
    """A parameter that is true or false."""
    if name not in parameters:
        return False
    if parameters[name].WhichOneof("parameter_choice") != "bool_param":
        raise bad_field("is not true or false", f"parameters.{name}")
    return parameters[name].bool_param


def _timeout_s(parameters: Mapping[str, oip.InferParameter]) -> float | None:
    if TIMEOUT not in parameters:
        return None
    value = getattr(parameters[TIMEOUT], parameters[TIMEOUT].WhichOneof("parameter_choice") or "string_param")
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise bad_field(f"is {value!r:.80}, expected microseconds > 0", f"parameters.{TIMEOUT}")
    return value / 1e6


def _refuse_outputs(request: oip.ModelInferRequest) -> None:
    if len(request.outputs) > _MOST_OUTPUTS:
        raise bad_field(f"{len(request.outputs)} outputs, expected at most {_MOST_OUTPUTS}", "outputs")
    for position, output in enumerate(request.outputs):
        _refuse(output.parameters, f"outputs[{position}].parameters")


def _refuse(parameters: Mapping[str, oip.InferParameter], path: str) -> None:
    found = next((name for name in _REFUSED if name in parameters), None)
    if found is not None:
        raise bad_field("is not supported by this server", f"{path}.{found}")


def row_error(error: Exception, request: oip.ModelInferRequest, row: int) -> Exception:
    """An error of one row, which names the part of the request at fault as the caller wrote it."""
    if isinstance(error, InvalidInputError):
        first = error.field.partition(".")[0].partition("[")[0]
        if first in ("encoded_image", TENSOR, TEXT, "input", "record", "tensors"):
            names, part = [each.name for each in request.inputs], error.field.partition(".")[2]
            error.field = f"inputs[{names.index(part) if part in names else 0}][{row}]"
            error.message = f"row {row}: {error.message}" if request.inputs[0].shape[0] > 1 else error.message
        elif error.field and first != "model":
            error.field = f"parameters.{error.field}"
    return error
