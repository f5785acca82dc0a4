"""The outputs that a request may name, and their values in the service's own replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from proponent.errors import InvalidInputError
from proponent.gateway.http.reply import to_json
from proponent.gateway.open_inference.tensors import BYTES, FP32, FP64, INT32, OutputTensor
from proponent.gateway.privacy.levels import level_of
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb

EXPLANATION = "explanation"
COUNTS = "counts"
_SIDES = ("proponents", "opponents")
_MEASURES = {
    "influence": pb.MEASURE_INFLUENCE,
    "theta-relatif": pb.MEASURE_THETA_RELATIF,
    "l-relatif": pb.MEASURE_L_RELATIF,
}
_PARTS = {
    "ids": ("example_id", BYTES),
    "scores": ("score", FP64),
    "labels": ("label", BYTES),
    "class_ids": ("class_id", INT32),
    "predicted_class_ids": ("predicted_class_id", INT32),
    "self_influences": ("self_influence", FP64),
    COUNTS: ("", INT32),
}
Read = Callable[[Sequence[Any]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Output:
    """One output by its name.

    Attributes:
        name: As a request names it.
        datatype: Of its tensor.
        read: Its values, from the replies to the rows of a batch.
        measure: Whose lists it is taken from, 0 for none.
        explains: Whether it needs an explanation.
        level: What a caller must be told of training examples to get it.
    """

    name: str
    datatype: str
    read: Read
    measure: int = 0
    explains: bool = False
    level: DisclosureLevel = DisclosureLevel.LABELS

    def of(self, replies: Sequence[Any]) -> OutputTensor:
        """Its tensor."""
        return OutputTensor(self.name, self.datatype, self.read(replies))


def output_named(name: str, path: str) -> Output:
    """An output; raises InvalidInputError for an unknown name, listing those that there are."""
    if name in OUTPUTS:
        return OUTPUTS[name]
    sides, measures, parts = map("|".join, (_SIDES, _MEASURES, _PARTS))
    expected = f"{', '.join(PREDICTION_OUTPUTS)}, {EXPLANATION} or {{{sides}}}.{{{measures}}}.{{{parts}}}"
    raise InvalidInputError(f"output {name!r} is unknown, expected {expected}", field=path, reason="OUTPUT_UNKNOWN")


def _of_predictions(field: str, convert: Callable[[list[Any]], npt.NDArray[Any]]) -> Read:
    return lambda replies: convert([getattr(reply.prediction, field) for reply in replies])


def _of_lists(side: str, measure: int, field: str, datatype: str) -> Read:
    def read(replies: Sequence[Any]) -> npt.NDArray[Any]:
        lists = [_list(reply, side, measure) for reply in replies]
        if not field:
            return np.array(list(map(len, lists)), np.int32)
        found = _empty((len(lists), max(map(len, lists))), datatype)
        for row, influences in enumerate(lists):
            values = [getattr(each, field) for each in influences]
            found[row, : len(values)] = list(map(str.encode, values)) if datatype == BYTES else values
        return found

    return read


def _list(reply: pb.ExplainResponse, side: str, measure: int) -> Sequence[pb.Influence]:
    """One list of an explanation; empty where only the prediction was answered."""
    found = next((result for result in reply.results if result.measure == measure), pb.MeasureResult())
    return getattr(found, side)  # type: ignore[no-any-return]


def _empty(shape: tuple[int, int], datatype: str) -> npt.NDArray[Any]:
    if datatype == BYTES:
        return np.full(shape, b"", object)
    return np.zeros(shape, np.float64 if datatype == FP64 else np.int32)


def _texts(values: Sequence[str]) -> npt.NDArray[Any]:
    return _elements([value.encode() for value in values])


def _explanations(replies: Sequence[pb.ExplainResponse]) -> npt.NDArray[Any]:
    return _elements([orjson.dumps(to_json(reply)) for reply in replies])


def _elements(values: Sequence[bytes]) -> npt.NDArray[Any]:
    found = np.empty(len(values), object)
    found[:] = values
    return found


PREDICTION_OUTPUTS = {
    output.name: output
    for output in (
        Output("probabilities", FP32, _of_predictions("probabilities", lambda rows: np.array(rows, np.float32))),
        Output("class_id", INT32, _of_predictions("class_id", lambda ids: np.array(ids, np.int32))),
        Output("label", BYTES, _of_predictions("label", _texts)),
    )
}
"""What a request gets that names no outputs."""
OUTPUTS = {
    **PREDICTION_OUTPUTS,
    EXPLANATION: Output(EXPLANATION, BYTES, _explanations, explains=True),
    **{
        output.name: output
        for side in _SIDES
        for measure, number in _MEASURES.items()
        for part, (field, datatype) in _PARTS.items()
        for output in (
            Output(
                f"{side}.{measure}.{part}",
                datatype,
                _of_lists(side, number, field, datatype),
                number,
                explains=True,
                level=level_of(field, number) if field else DisclosureLevel.LABELS,
            ),
        )
    },
}
