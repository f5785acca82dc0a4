"""Texts, records and named tensors by every way in; what is unusable is named, and the next request works."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

import tiny_table
import tiny_text
from proponent.attribution.inputs import NamedInputs
from proponent.audit.quick import quick_audit
from proponent.client.inputs import input_fields
from proponent.errors import InvalidInputError, SpecError
from proponent.explainer import Explainer
from proponent.gateway.http.instances import instance_of_text, instances_of_json
from proponent.gateway.open_inference.queries import Query, requests_of
from proponent.gateway.open_inference.rest_body import infer_request_of
from proponent.gateway.prediction_when_late import prediction_of
from proponent.gateway.settings import Settings
from proponent.gateway.validation import check_input, check_rules
from proponent.index import bundle as files
from proponent.index.samples import Samples
from proponent.index.store import Store
from proponent.input_checks import check_sizes
from proponent.inspection.verify import verify
from proponent.options import ExplainOptions
from proponent.raw_inputs import unpadded_input
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.signatures import with_axes, with_flags
from proponent.results import Explanation
from proponent.signature import InputKind, InputSignature, TensorSignature
from proponent.spec import load_spec
from proponent.text import Text
from proponent.user_code.made_up import made_up_unpadded
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Item, Worker

pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
]
OAK = {"height": 2.0, "kind": "oak", "old": True}
IDS = np.array([2, 3, 9])
MASK = np.ones(3, dtype=np.int64)


def built(path: Path) -> Explainer:
    bundle = rebuild(load_spec(path), Store(path.parent / "store"), RebuildOptions(quiet=True), quick_audit)
    return Explainer.load(bundle)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return built(tiny_text.project(tmp_path_factory.mktemp("text"), model={"kind": "bert"}))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return built(tiny_table.project(tmp_path_factory.mktemp("table")))


def answered(explainer: Explainer, message: Any) -> Any:
    """The answer of a gateway and a worker to one request, or its error as an exception."""
    message.model = explainer.manifest.model
    check_rules(message)
    check_input(message, explainer.manifest, Settings(), "")
    return worked(explainer, message)


def worked(explainer: Explainer, message: Any) -> Any:
    kind = "predict" if isinstance(message, pb.PredictRequest) else "explain"
    [reply] = Worker(explainer).handle([Item(WorkerRequest(**{kind: message}), as_json=False)])
    if reply.WhichOneof("outcome") == "error":
        raise InvalidInputError(reply.error.message, field=reply.error.field, reason=reply.error.reason)
    return getattr(reply, kind)


def test_records_are_explained_and_their_bundle_is_sound(table: Explainer) -> None:
    found, other = table.explain([OAK, {**OAK, "kind": None}], [ExplainOptions()] * 2)
    assert isinstance(found, Explanation) and isinstance(other, Explanation)
    assert found.prediction.probabilities != other.prediction.probabilities
    signature = table.signature
    assert [(c.name, c.type.value, c.categories, c.optional) for c in signature.columns] == [
        ("height", "number", (), False),
        ("kind", "category", ("oak", "elm", "fir"), True),
        ("old", "flag", (), False),
    ]
    assert [(t.name, t.dtype, t.shape, t.max_value) for t in signature.tensors] == [
        ("numbers", "float32", (2,), None),
        ("kind", "int32", (), 3),
    ]
    bundle = next(table.classifier.spec.root.glob("store/trees/bundles/*"))
    assert verify(bundle).problems == []


def test_samples_are_kept_as_they_may_be_sent(table: Explainer) -> None:
    bundle = next(table.classifier.spec.root.glob("store/trees/bundles/*"))
    samples = list(Samples.open(bundle / files.SAMPLES))
    assert [sample.form for sample in samples] == ["record"] * 3
    record = json.loads(samples[0].input)
    assert set(record) == {"height", "kind", "old"} and table.predict([record])[0]


JSON: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: {"text": "good film"},
    "lists": lambda: {"tensors": {"input_ids": [2, 3, 9], "attention_mask": [1, 1, 1]}},
    "truth": lambda: {"tensors": {"input_ids": [2, 3, 9], "attention_mask": [True, True, True]}},
}


@pytest.mark.parametrize("form", JSON)
def test_json_gives_what_the_library_does(form: str, text: Explainer) -> None:
    [expected] = text.predict([Text("good film")])
    body = json.dumps({"instances": [JSON[form]()], "top_k": 2}).encode()
    [instance] = instances_of_json(body, pb.ExplainRequest, "words", 8)
    reply = answered(text, instance.message)
    assert list(reply.prediction.probabilities) == pytest.approx(expected.probabilities, abs=1e-6)  # type: ignore[union-attr]
    alone = json.dumps({**JSON[form](), "top_k": 2}).encode()
    [instance] = instances_of_json(alone, pb.ExplainRequest, "words", 8)
    assert answered(text, instance.message).results == reply.results


def test_a_plain_text_is_a_body(text: Explainer) -> None:
    instance = instance_of_text(b"good film", [("top_k", "3")], pb.ExplainRequest, "words")
    reply = answered(text, instance.message)
    assert len(reply.results[0].proponents) <= 3 and reply.prediction.label in tiny_text.CLASSES
    broken = instance_of_text(b"\xff", [], pb.ExplainRequest, "words").message
    assert isinstance(broken, InvalidInputError) and broken.field == "text"


GIVEN: dict[str, tuple[str, Any]] = {
    "a text": ("text", Text("good film")),
    "arrays": ("text", {"input_ids": IDS, "attention_mask": MASK}),
    "a record": ("table", OAK),
    "a record of NumPy": ("table", {"height": np.float64(2), "kind": "oak", "old": np.bool_(True)}),
}


@pytest.mark.parametrize("what", GIVEN)
def test_clients_send_what_the_library_takes(what: str, request: pytest.FixtureRequest) -> None:
    model, value = GIVEN[what]
    explainer: Explainer = request.getfixturevalue(model)
    [expected] = explainer.predict([value])
    reply = answered(explainer, pb.PredictRequest(**input_fields(value)))
    assert list(reply.prediction.probabilities) == pytest.approx(expected.probabilities, abs=1e-6)  # type: ignore[union-attr]
    asked = pb.ExplainRequest(model="m", **input_fields(value))
    kind = asked.WhichOneof("input") or ""
    assert getattr(prediction_of(asked), kind) == getattr(asked, kind)


def test_clients_send_no_whole_number_that_would_be_another_one() -> None:
    assert input_fields({"height": 2**60})["record"]["height"] == 2**60, "a float holds it"
    for value in (2**53 + 1, -(2**60) - 1, np.int64(2**53 + 1)):
        with pytest.raises(InvalidInputError, match=r"2\*\*53, or a text") as error:
            input_fields({"height": value})
        assert (error.value.field, error.value.reason) == ("record.height", "RECORD_NOT_EXACT")
    with pytest.raises(InvalidInputError, match="record cannot be sent"):
        input_fields({"height": 10**400})


def test_the_library_tells_a_number_beyond_all_floats_by_its_column(table: Explainer) -> None:
    [refused] = table.predict([{**OAK, "height": 10**400}])
    assert isinstance(refused, InvalidInputError)
    assert (refused.field, refused.reason) == ("record.height", "RECORD_NOT_FINITE")


def test_an_array_of_uint8_is_an_image() -> None:
    with pytest.raises(InvalidInputError, match=r"uint8, which is an image, has shape \[3\].* another dtype"):
        input_fields(np.zeros(3, np.uint8))


def message(**fields: Any) -> pb.PredictRequest:
    return pb.PredictRequest(**fields)


def ids(values: Any, dtype: str = "int64", mask: Any = (1, 1, 1)) -> pb.PredictRequest:
    array, ones = np.array(values, dtype=dtype), np.array(mask, dtype="int64")
    sent = {"input_ids": array, "attention_mask": ones}
    tensors = {
        name: pb.Tensor(shape=each.shape, dtype=each.dtype.name, data=each.tobytes()) for name, each in sent.items()
    }
    return pb.PredictRequest(tensors=pb.NamedTensors(tensors=tensors))


def without(request: pb.PredictRequest, name: str) -> pb.PredictRequest:
    del request.tensors.tensors[name]
    return request


def record(**changes: Any) -> pb.PredictRequest:
    values = Struct()
    values.update({name: value for name, value in {**OAK, **changes}.items() if value != "left out"})
    return pb.PredictRequest(record=values)


ONE = pb.Tensor(shape=[1], dtype="float32", data=bytes(4))
UNUSABLE: dict[str, tuple[str, Callable[[], pb.PredictRequest], str, str]] = {
    "empty text": ("text", lambda: message(text=""), "text", "TEXT_EMPTY"),
    "blank text": ("text", lambda: message(text=" \n"), "text", "TEXT_EMPTY"),
    "characters": ("text", lambda: message(text="film " * 100), "text", "TEXT_TOO_LONG"),
    "words": ("text", lambda: message(text="film " * 40), "text", "TEXT_UNUSABLE"),
    "record to text": ("text", record, "record", "INPUT_WRONG_KIND"),
    "image to text": ("text", lambda: message(encoded_image=b"x"), "encoded_image", "INPUT_WRONG_KIND"),
    "tensor to text": ("text", lambda: message(tensor=ONE), "tensor", "INPUT_WRONG_KIND"),
    "text to table": ("table", lambda: message(text="oak"), "text", "INPUT_WRONG_KIND"),
    "vocabulary": ("text", lambda: ids([2, 18, 3]), "tensors.input_ids", "TENSOR_OUT_OF_RANGE"),
    "negative id": ("text", lambda: ids([2, -1, 3]), "tensors.input_ids", "TENSOR_OUT_OF_RANGE"),
    "dtype": ("text", lambda: ids([2, 3, 3], "int32"), "tensors.input_ids", "TENSOR_WRONG_DTYPE"),
    "unknown dtype": ("text", lambda: ids([2, 3, 3], "uint16"), "tensors.input_ids", "TENSOR_WRONG_DTYPE"),
    "dimensions": ("text", lambda: ids([[2, 3, 3]]), "tensors.input_ids", "TENSOR_WRONG_SHAPE"),
    "short mask": ("text", lambda: ids(IDS, mask=[1] * 2), "tensors.attention_mask", "TENSOR_WRONG_SHAPE"),
    "long mask": ("text", lambda: ids(IDS, mask=[1] * 20), "tensors.attention_mask", "TENSOR_WRONG_SHAPE"),
    "mask of sevens": ("text", lambda: ids(IDS, mask=[1, 7, 1]), "tensors.attention_mask", "TENSOR_OUT_OF_RANGE"),
    "negative mask": ("text", lambda: ids(IDS, mask=[1, 1, -1]), "tensors.attention_mask", "TENSOR_OUT_OF_RANGE"),
    "too long": ("text", lambda: ids([2] * 30, mask=[1] * 30), "tensors", ""),
    "missing tensor": ("text", lambda: without(ids(IDS), "attention_mask"), "tensors.attention", "TENSOR_MISSING"),
    "unknown column": ("table", lambda: record(colour="red"), "record.colour", "RECORD_UNKNOWN_COLUMN"),
    "missing column": ("table", lambda: record(old="left out"), "record.old", "RECORD_MISSING_COLUMN"),
    "null": ("table", lambda: record(height=None), "record.height", "RECORD_MISSING_COLUMN"),
    "text for number": ("table", lambda: record(height="tall"), "record.height", "RECORD_WRONG_TYPE"),
    "flag for number": ("table", lambda: record(height=True), "record.height", "RECORD_WRONG_TYPE"),
    "number for flag": ("table", lambda: record(old=1), "record.old", "RECORD_WRONG_TYPE"),
    "list": ("table", lambda: record(kind=["oak"]), "record.kind", "RECORD_WRONG_TYPE"),
    "category": ("table", lambda: record(kind="yew"), "record.kind", "RECORD_UNKNOWN_CATEGORY"),
    "NaN": ("table", lambda: record(height=float("nan")), "record.height", "RECORD_NOT_FINITE"),
    "infinity": ("table", lambda: record(height=float("inf")), "record.height", "RECORD_NOT_FINITE"),
    "empty record": ("table", lambda: message(record=Struct()), "record", "RECORD_MISSING_COLUMN"),
}  # fmt: skip


@pytest.mark.parametrize("where", ["gateway", "worker"])
@pytest.mark.parametrize("what", UNUSABLE)
def test_what_is_unusable_is_named_and_the_next_request_works(
    what: str, where: str, request: pytest.FixtureRequest
) -> None:
    """A gateway refuses it before any worker is asked; a worker that is asked without one does as well."""
    model, make, field, reason = UNUSABLE[what]
    explainer: Explainer = request.getfixturevalue(model)
    with pytest.raises(InvalidInputError) as error:
        (answered if where == "gateway" else worked)(explainer, make())
    assert error.value.field.startswith(field), error.value
    assert not reason or error.value.reason == reason, error.value
    good = record() if model == "table" else message(text="good film")
    assert answered(explainer, good).prediction.label


def test_the_library_names_what_it_cannot_take(text: Explainer) -> None:
    long = NamedInputs({"input_ids": torch.tensor([1, 2]), "attention_mask": torch.ones(2)})
    found = text.predict([Text(""), torch.zeros(3), {"a": 1}, long, "a path"])  # type: ignore[list-item]
    fields = [getattr(one, "field", None) for one in found]
    assert fields == ["text", "tensor", "record", "tensors.attention_mask", "input"]
    assert text.predict([Text("good film")])[0]


def protocol(explainer: Explainer, *inputs: tuple[str, str, list[int], list[Any]]) -> list[Any]:
    body = {"inputs": [dict(zip(("name", "datatype", "shape", "data"), each, strict=True)) for each in inputs]}
    request = infer_request_of(json.dumps(body).encode(), None, explainer.manifest.model, "")
    return requests_of(request, Query.of(request), explainer.manifest, Settings())


def test_the_open_inference_protocol_carries_them(text: Explainer, table: Explainer) -> None:
    one, two = protocol(text, ("text", "BYTES", [2], ["good film", "dull"]))
    assert (one.text, two.text) == ("good film", "dull")
    [named] = protocol(
        text, ("attention_mask", "INT64", [1, 3], [[1, 1, 1]]), ("input_ids", "INT64", [1, 3], [[2, 3, 9]])
    )
    assert answered(text, named).prediction == answered(text, one).prediction
    [row] = protocol(
        table, ("height", "FP64", [1], [2]), ("old", "BOOL", [1], [True]), ("kind", "BYTES", [1], ["oak"])
    )
    assert MessageToDict(row.record) == OAK
    for inputs, field in (
        ((("text", "FP32", [1], [1]),), "inputs[0].datatype"),
        ((("input_ids", "INT64", [1, 3], [[2, 3, 9]]),), "inputs"),
        ((("input_ids", "INT64", [1, 3], [[2, 3, 9.5]]),), "inputs[0].data"),
        ((("input_ids", "INT64", [1, 3], [[2, 3, True]]),), "inputs[0].data"),
        ((("attention_mask", "INT64", [3], [1] * 3), ("input_ids", "INT64", [3], [2, 3, 9])), "inputs[0].shape"),
        ((("nothing", "INT64", [1, 3], [[2, 3, 9]]),), "inputs[0].name"),
        (
            (("attention_mask", "INT64", [2, 3], [[1] * 3] * 2), ("input_ids", "INT64", [1, 3], [[2, 3, 9]])),
            "inputs[1]",
        ),
    ):
        with pytest.raises(InvalidInputError) as error:
            protocol(text, *inputs)
        assert error.value.field.startswith(field)


def test_columns_and_tensors_of_one_name_are_told_apart(table: Explainer) -> None:
    """``kind`` is a column of texts and a tensor of ids: the other inputs say which, in whatever order."""
    cells = {"kind": ("BYTES", ["oak"]), "height": ("FP64", [2]), "old": ("BOOL", [True])}
    for order in itertools.permutations(cells):
        [row] = protocol(table, *((name, cells[name][0], [1], cells[name][1]) for name in order))
        assert MessageToDict(row.record) == OAK
    [named] = protocol(table, ("kind", "INT32", [1], [1]), ("numbers", "FP32", [1, 2], [[0.5, 1.0]]))
    assert sorted(named.tensors.tensors) == ["kind", "numbers"]
    for inputs, field, said in (
        ((("height", "FP64", [1], [2]), ("x", "FP32", [1], [1])), "inputs[1].name", "'x' is unknown"),
        ((("kind", "BYTES", [1], ["oak"]), ("height", "FP64", [1], [2])), "inputs", "'old' is missing"),
    ):
        with pytest.raises(InvalidInputError, match=said) as error:
            protocol(table, *inputs)
        assert error.value.field == field


def test_bytes_that_are_no_text_are_refused_by_row(text: Explainer) -> None:
    rows = [b"good film", b"\xff\xfe"]
    packed = b"".join(len(row).to_bytes(4, "little") + row for row in rows)
    request = oip.ModelInferRequest(model_name="words", raw_input_contents=[packed])
    request.inputs.add(name="text", datatype="BYTES", shape=[2])
    with pytest.raises(InvalidInputError) as error:
        requests_of(request, Query.of(request), text.manifest, Settings())
    assert error.value.message.startswith("row 1: text is not UTF-8")
    assert (error.value.field, error.value.reason) == ("inputs[0][1]", "TEXT_UNUSABLE")


DEEP = '{"a":' * 200 + "1" + "}" * 200
NOT_READ: dict[str, tuple[str, str, str]] = {
    "a number for a text": ('{"text": 3}', "text", "is a number, expected a text"),
    "half a pair": (r'{"text": "a \ud800 b"}', "text", "surrogate"),
    "two inputs": ('{"text": "good", "record": {"a": 1}}', "input", "text and record"),
    "an unknown key": ('{"texts": "good"}', "texts", "no such key"),
    "a list for a record": ('{"record": [1]}', "record", "is a list, expected an object of columns"),
    "a list in a record": ('{"record": {"height": [1]}}', "record.height", "is a list, expected a number"),
    "nested records": (f'{{"record": {{"height": {DEEP}}}}}', "record.height", "is an object"),
    "a huge number": (f'{{"record": {{"height": {10**400}}}}}', "record.height", "401 digits"),
    "a number that floats round": (
        f'{{"record": {{"height": {2**60 + 1}}}}}',
        "record.height",
        f"{2**60 + 1}, which",
    ),
    "half a pair in a row": (r'{"record": {"kind": "\udc00"}}', "record.kind", "surrogate"),
    "half a pair as a column": (r'{"record": {"\udc00": 1}}', "record", "surrogate"),
    "a text for a tensor": ('{"tensors": {"input_ids": "3"}}', "tensors.input_ids", "is a text, expected nested"),
    "null for a tensor": ('{"tensors": {"input_ids": null}}', "tensors.input_ids", "is null, expected nested"),
    "a flag among ids": ('{"tensors": {"input_ids": [[2, 3], [9, true]]}}', "tensors.input_ids", "true or false"),
    "texts for a tensor": ('{"tensors": {"input_ids": ["2"]}}', "tensors.input_ids", "not numbers"),
}


@pytest.mark.parametrize("what", NOT_READ)
def test_json_that_is_no_input_is_named_and_its_mates_are_read(what: str) -> None:
    value, field, said = NOT_READ[what]
    body = f'{{"instances": [{value}, {{"text": "good film"}}]}}'.encode()
    bad, good = instances_of_json(body, pb.PredictRequest, "words", 8)
    assert isinstance(bad.message, InvalidInputError) and said in bad.message.message
    assert bad.message.field == f"instances[0].{field}" and "proponent.v1" not in bad.message.message
    assert good.message.text == "good film"  # type: ignore[union-attr]


def named(input_ids: Any, attention_mask: Any) -> pb.PredictRequest:
    body = json.dumps({"tensors": {"input_ids": input_ids, "attention_mask": attention_mask}}).encode()
    [instance] = instances_of_json(body, pb.PredictRequest, "words", 8)
    return instance.message  # type: ignore[return-value]


TOLD: dict[str, tuple[Callable[[], pb.PredictRequest], str]] = {
    "lengths": (lambda: named([2, 3, 9], [1]), "has shape [1], expected the size 3 of tensor 'input_ids'"),
    "a batch": (lambda: ids([[2, 3, 9]]), "has shape [1, 3], expected [-1]: one input, without a batch dimension"),
    "flags for ids": (lambda: named([True] * 3, [1] * 3), "'input_ids' has dtype 'bool', expected 'int64'"),
    "a number for a flag": (lambda: named([2, 3, 9], [1, 1, 2]), "'attention_mask' has the value 2, expected 0 to 1"),
    "one number": (lambda: named(3, [1]), "'input_ids' has shape [], expected [-1]"),
}


@pytest.mark.parametrize("what", TOLD)
def test_tensors_are_refused_with_the_value_and_what_was_expected(what: str, text: Explainer) -> None:
    make, said = TOLD[what]
    with pytest.raises(InvalidInputError) as error:
        answered(text, make())
    assert said in error.value.message


def test_one_number_is_a_tensor_and_must_fit_its_dtype(table: Explainer) -> None:
    [expected] = table.predict([OAK])

    def asked(kind: int) -> pb.PredictRequest:
        body = json.dumps({"tensors": {"numbers": [2.0, 1.0], "kind": kind}}).encode()
        [instance] = instances_of_json(body, pb.PredictRequest, "trees", 8)
        return instance.message  # type: ignore[return-value]

    found = answered(table, asked(1)).prediction.probabilities
    assert list(found) == pytest.approx(expected.probabilities, abs=1e-6)  # type: ignore[union-attr]
    for kind, bounds in ((1 << 40, f"-{1 << 31} to {(1 << 31) - 1}"), (4, "0 to 3")):
        with pytest.raises(InvalidInputError, match=f"'kind' has the value {kind}, expected {bounds}"):
            answered(table, asked(kind))


@pytest.mark.parametrize("data", [b"\0" * 7, np.full(3, np.nan).tobytes()])
@pytest.mark.parametrize("dtype", ["json", "json flags"])
def test_what_stands_for_a_dtype_in_json_is_none_over_grpc(dtype: str, data: bytes, text: Explainer) -> None:
    request = ids([2, 3, 9])
    request.tensors.tensors["input_ids"].CopyFrom(pb.Tensor(shape=[3], dtype=dtype, data=data))
    with pytest.raises(InvalidInputError, match=f"has dtype '{dtype}', expected 'int64'"):
        answered(text, request)


def test_axes_that_go_together_are_learned_from_the_examples(text: Explainer, table: Explainer) -> None:
    assert [tensor.axes for tensor in text.signature.tensors] == [(0,), (0,)]
    assert [tensor.axes for tensor in table.signature.tensors] == [(), ()]
    [kept] = [t for t in text.signature.tensors if t.name == "attention_mask"]
    assert (kept.min_value, kept.max_value) == (0, 1)
    premise, hypothesis = (TensorSignature(name, "int64", (-1, -1)) for name in ("premise", "hypothesis"))
    signature = InputSignature((), "L", (), InputKind.TEXT, (premise, hypothesis))
    sizes = [((3, 4), (5, 4)), ((2, 4), (2, 4)), ((7, 4), (6, 4))]
    examples = [NamedInputs({"premise": torch.ones(a), "hypothesis": torch.ones(b)}) for a, b in sizes]
    found = with_axes(signature, examples)
    assert [tensor.axes for tensor in found.tensors] == [(0, 1), (2, 1)]
    check_sizes({"premise": (3, 4), "hypothesis": (9, 4)}, found)
    with pytest.raises(InvalidInputError, match="'hypothesis' has shape \\[9, 5\\], expected the size 4"):
        check_sizes({"premise": (3, 4), "hypothesis": (9, 5)}, found)


def test_the_tensor_that_differs_from_the_others_is_blamed() -> None:
    names = ("ids", "mask", "kinds")
    signature = InputSignature((), "L", (), InputKind.TEXT, tuple(TensorSignature(n, "int64", (-1,)) for n in names))
    tied = replace(signature, tensors=tuple(replace(each, axes=(0,)) for each in signature.tensors))
    for wrong in names:
        sizes = {name: (5 if name == wrong else 4,) for name in names}
        with pytest.raises(InvalidInputError, match=f"'{wrong}' has shape \\[5\\], expected the size 4") as error:
            check_sizes(sizes, tied)
        assert error.value.field == f"tensors.{wrong}"


def test_sizes_that_are_equal_by_chance_in_all_training_texts_are_not_tied() -> None:
    def transform(text: str) -> dict[str, Any]:
        count = len(text.split())
        return {"ids": torch.ones(count), "mask": torch.ones(count), "features": torch.ones(4)}

    given = tuple(TensorSignature(name, "float32", (-1,)) for name in ("ids", "mask", "features"))
    signature = InputSignature((), "L", (), InputKind.TEXT, given)
    examples = [unpadded_input(transform, "a text of four")] * 3
    assert len({tensor.axes for tensor in with_axes(signature, examples).tensors}) == 1, "all that is seen is four"
    ids, mask, features = with_axes(signature, [*examples, *made_up_unpadded(signature, transform)]).tensors
    assert ids.axes == mask.axes != features.axes


def test_masks_alone_are_bounded_by_what_was_seen() -> None:
    given = (TensorSignature("ids", "int64", (-1,)), TensorSignature("mask", "int64", (-1,)))
    alone = TensorSignature("children", "int64", (3,))
    wholes = {"ids": (0, 9), "mask": (0, 1), "children": (0, 1)}
    for kind, expected in ((InputKind.TENSORS, [None, 1, None]), (InputKind.RECORD, [None] * 3)):
        found = with_flags(InputSignature((), "L", (), kind, (*given, alone)), wholes)
        assert [tensor.max_value for tensor in found.tensors] == expected


def test_whole_numbers_of_a_record_reach_the_transform_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the wire all numbers are floats, and a transform may take a number's text."""
    told = tiny_table.MODULE.replace("% 7 - 3.0", "% 7 - 3").replace(
        'record["height"],', 'len(str(record["height"])),'
    )
    monkeypatch.setattr(tiny_table, "MODULE", told)
    explainer = built(tiny_table.project(tmp_path))
    assert explainer.signature.whole_columns == ("height",)
    record = {**OAK, "height": 12}
    sent = Struct()
    sent.update(record)
    [expected] = explainer.predict([record])
    found = answered(explainer, pb.PredictRequest(record=sent)).prediction.probabilities
    assert list(found) == pytest.approx(expected.probabilities, abs=1e-6)  # type: ignore[union-attr]
    [other] = explainer.predict([{**record, "height": 2.25}])
    assert other.probabilities != expected.probabilities  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["__import__('datetime').date(2020, 1, 2)", "[1, 2]"])
def test_a_row_that_no_request_could_hold_is_refused_by_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    told = tiny_table.MODULE.replace('"kind": kind, "old"', f'"kind": {value}, "old"')
    monkeypatch.setattr(tiny_table, "MODULE", told)
    with pytest.raises(
        SpecError, match=r"example 0 cannot be read .*column 'kind' holds .* which no request can"
    ) as error:
        built(tiny_table.project(tmp_path))
    assert error.value.field == "dataset"


def test_an_empty_tensor_is_named_as_it_was_sent(text: Explainer) -> None:
    for tensors, field in (({"input_ids": []}, "tensors.input_ids.shape[0]"), ({}, "tensors")):
        [instance] = instances_of_json(json.dumps({"tensors": tensors}).encode(), pb.PredictRequest, "words", 8)
        with pytest.raises(InvalidInputError) as error:
            check_rules(instance.message)  # type: ignore[arg-type]
        assert error.value.field == field
