"""The service as a whole, through both transports: answers, refusals and recovery."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from inputs import BAD_INPUTS, GOOD, MODEL, PIXELS, Bad, tensor
from running import RunningGateway

from proponent import Client, ExplainOptions, Measure, View
from proponent.v1 import explanation_pb2 as pb

pytestmark = pytest.mark.e2e
IMAGE = base64.b64encode(GOOD).decode()


def explain_rpc(service: RunningGateway, **options: object) -> pb.ExplainResponse:
    return service.rpc.Explain(pb.ExplainRequest(model=MODEL, encoded_image=GOOD, **options), timeout=30)


def details(error: grpc.RpcError) -> tuple[str, str]:
    """Reason and field of an error."""
    info, field = error_details_pb2.ErrorInfo(), ""
    for detail in rpc_status.from_call(error).details:
        violation = error_details_pb2.BadRequest()
        if detail.Unpack(violation):
            field = violation.field_violations[0].field
        else:
            detail.Unpack(info)
    assert info.domain == "proponent"
    return info.reason, field


def assert_good(service: RunningGateway) -> None:
    assert explain_rpc(service, top_k=1).prediction.class_id == 3
    reply = service.http.post(f"/v1/models/{MODEL}:predict", json={"instances": [{"image": IMAGE}]})
    assert reply.json()["predictions"][0]["class_id"] == 3


def test_explains_over_grpc(service: RunningGateway) -> None:
    reply = explain_rpc(service, top_k=3, request_id="mine")
    assert reply.request_id == "mine"
    assert [r.measure for r in reply.results] == [1, 2, 3]
    for result in reply.results:
        assert [i.rank for i in result.proponents] == [1, 2, 3]
        assert all(i.score > 0 for i in result.proponents) and all(i.score < 0 for i in result.opponents)
    assert reply.bundle_digest == service.rpc.GetModel(pb.GetModelRequest(model=MODEL)).bundle_digest


def test_both_doors_say_the_same(service: RunningGateway) -> None:
    typed = explain_rpc(service, top_k=5, measures=[pb.MEASURE_L_RELATIF])
    body = {"instances": [{"image": {"b64": IMAGE}, "topK": 5}], "measures": ["l-relatif"]}
    reply = service.http.post(f"/v1/models/{MODEL}:explain", json=body).json()
    (explanation,) = reply["explanations"]
    listed = [entry["example_id"] for entry in explanation["results"][0]["proponents"]]
    assert listed == [entry.example_id for entry in typed.results[0].proponents]
    assert reply["predictions"][0]["label"] == typed.prediction.label
    assert explanation["train_size"] == typed.train_size


def test_a_sample_that_is_sent_back_is_explained_as_it_is_listed(service: RunningGateway) -> None:
    """What the bundle keeps, the worker confirms; the typed client passes the input on as it came."""
    with Client(service.grpc_address, model=MODEL) as client:
        listed = client.list_samples(page_size=3, view=View.THUMBNAIL)
        assert listed.total == client.get_model().samples == 200
        counted: Counter[str] = Counter()
        for each in client.list_samples(page_size=200).samples:
            sample = client.get_sample(each.sample_id)
            assert isinstance(sample.input, bytes)
            answer = client.explain(sample.input, ExplainOptions(measures=(Measure.INFLUENCE,), top_k=4))
            assert answer.prediction.class_id == sample.predicted_class_id == each.predicted_class_id
            [result] = answer.results
            counted.update(one.example_id for one in (*result.proponents, *result.opponents))
        frequent = client.list_frequent_examples(top_k=4, limit=10_000)
        assert {example.example_id: count for example, count in frequent.examples} == counted
        assert frequent.slots == sum(counted.values()) and len(frequent.to_pandas()) == frequent.distinct
        [bundle] = client.list_bundles().bundles
        assert bundle.is_current and bundle.digest == listed.bundle_digest and not bundle.error
        same = client.diff_bundles(base=bundle.digest[:8])
        assert same.overall.overlap == 1 and len(same.to_pandas()) == same.overall.samples == 200
    reply = service.http.get(f"/v1/models/{MODEL}/samples", params={"page_size": 3, "view": "thumbnail"}).json()
    assert [each["sample_id"] for each in reply["samples"]] == [each.sample_id for each in listed.samples]


def test_predicts_alike_from_image_and_tensor(service: RunningGateway) -> None:
    by_image = service.rpc.Predict(pb.PredictRequest(model=MODEL, encoded_image=GOOD)).prediction
    rows = [[[float(pixel) for pixel in row] for row in PIXELS / 255.0]]
    body = {"instances": [rows, {"tensor": rows}]}
    both = service.http.post(f"/v1/models/{MODEL}:predict", json=body).json()["predictions"]
    assert [p["class_id"] for p in both] == [by_image.class_id] * 2
    typed = service.rpc.Predict(pb.PredictRequest(model=MODEL, tensor=tensor(np.array(rows))))
    assert typed.prediction.class_id == by_image.class_id


def test_takes_forms_and_raw_images(service: RunningGateway) -> None:
    url = f"/v1/models/{MODEL}:explain"
    form = {"top_k": "1", "measures": "influence", "class_id": "5", "view": "thumbnail"}
    uploaded = service.http.post(url, files={"image": ("d.png", GOOD, "image/png")}, data=form).json()
    raw = service.http.post(
        f"{url}?top_k=1&measures=influence&class_id=5", content=GOOD, headers={"content-type": "image/png"}
    ).json()
    first, second = (reply["explanations"][0]["results"][0]["proponents"][0] for reply in (uploaded, raw))
    assert first["example_id"] == second["example_id"] and first["class_id"] == 5
    assert base64.b64decode(first["thumbnail"]).startswith(b"\x89PNG") and not second["thumbnail"]


def test_streams_with_errors_of_their_own(service: RunningGateway) -> None:
    def requests() -> Iterator[pb.StreamExplainRequest]:
        for number in range(40):
            image = GOOD if number % 4 else b"no image"
            request = pb.ExplainRequest(model=MODEL, encoded_image=image, top_k=1, request_id=str(number))
            yield pb.StreamExplainRequest(request=request)

    outcomes = {a.request_id: a.WhichOneof("outcome") for a in service.rpc.StreamExplain(requests(), timeout=60)}
    assert outcomes == {str(n): "response" if n % 4 else "error" for n in range(40)}


def test_explains_only_what_is_worth_it(service: RunningGateway) -> None:
    never = explain_rpc(service, explain_if=pb.ExplainIf(confidence_below=0.0))
    assert never.prediction.class_id == 3 and not never.results
    assert [notice.code for notice in never.notices] == [pb.Notice.CODE_EXPLANATION_SKIPPED]
    body = {"instances": [{"image": IMAGE}, {"image": IMAGE, "explain_if": {"sampled_share": 0}}]}
    both = service.http.post(f"/v1/models/{MODEL}:explain", json=body | {"explain_if": {"confidence_below": 1}})
    assert [bool(found["results"]) for found in both.json()["explanations"]] == [True, False]


def test_a_late_explanation_leaves_the_prediction(service: RunningGateway) -> None:
    expensive = pb.Diversity(max_influence_loss=0.5, candidates=1000, whole_dataset=True)
    request = pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=200, diversity=expensive)
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(request, timeout=0.25)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    request.deadline_policy = pb.DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE
    reply = service.rpc.Explain(request, timeout=2.0)
    assert reply.prediction.class_id == 3


def test_answers_good_instances_beside_bad_ones(service: RunningGateway) -> None:
    body = {"instances": [{"image": IMAGE}, {"image": "AAAA"}, {"image": IMAGE, "top_k": 0}]}
    reply = service.http.post(f"/v1/models/{MODEL}:explain", json=body)
    assert reply.status_code == 200
    found = reply.json()["explanations"]
    assert found[0]["prediction"]["class_id"] == 3
    assert found[1]["error"]["reason"] == "IMAGE_UNREADABLE" and found[1]["error"]["field"] == "instances[1].image"
    assert found[2]["error"]["field"] == "instances[2].top_k"


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_refuses_bad_input_over_grpc(service: RunningGateway, bad: Bad) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(bad.request(), timeout=30)
    assert caught.value.code().name == bad.code, caught.value.details()
    field = bad.field if bad.code == "INVALID_ARGUMENT" else ""
    assert details(caught.value) == (bad.reason, field)
    assert_good(service)


def test_a_prediction_refuses_a_bad_image_too(service: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Predict(pb.PredictRequest(model=MODEL, encoded_image=b"no image"), timeout=30)
    assert details(caught.value) == ("IMAGE_UNREADABLE", "encoded_image")


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_refuses_bad_input_over_http(service: RunningGateway, bad: Bad) -> None:
    content = json.dumps(bad.body())
    headers = {"content-type": "application/json"}
    reply = service.http.post(f"/v1/models/{bad.model}:explain", content=content, headers=headers)
    assert reply.status_code == bad.status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    expected = bad.json_field or f"instances[0].{bad.field}"
    assert (problem["reason"], problem["field"]) == (bad.reason, expected), problem
    assert_good(service)


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (b"", "application/json", 400, "BODY_EMPTY"),
        (b"", "image/png", 400, "BODY_EMPTY"),
        (b"{", "application/json", 400, "JSON_INVALID"),
        (b"[" * 100_000, "application/json", 400, "JSON_INVALID"),
        (b"[1]", "application/json", 400, "JSON_INVALID"),
        (b'{"instances": []}', "application/json", 400, "INVALID_INPUT"),
        (b'{"instances": [{"imagine": 1}]}', "application/json", 400, "INVALID_INPUT"),
        (GOOD, "application/xml", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (GOOD, "text/plain", 400, "TEXT_UNUSABLE"),
        (b"x" * (33 << 20), "application/json", 413, "BODY_TOO_LARGE"),
        (b"x" * (11 << 20), "image/png", 400, "IMAGE_TOO_LARGE"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "INPUT_MISSING"),
        (b"nothing", "multipart/form-data", 400, "FORM_INVALID"),
    ],
)
def test_refuses_bad_bodies(service: RunningGateway, content: bytes, kind: str, status: int, reason: str) -> None:
    reply = service.http.post(f"/v1/models/{MODEL}:predict", content=content, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["reason"]) == (status, reason), reply.text
    assert_good(service)


def test_refuses_oversize_and_empty_messages(service: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(pb.ExplainRequest(model=MODEL, encoded_image=b"x" * (11 << 20)), timeout=30)
    assert details(caught.value) == ("IMAGE_TOO_LARGE", "encoded_image")
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(pb.ExplainRequest(model=MODEL, encoded_image=b"x" * (40 << 20)), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(pb.ExplainRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_good(service)


def test_caps_k_with_a_notice(service: RunningGateway) -> None:
    reply = explain_rpc(service, top_k=10**12, measures=[1])
    assert pb.Notice.CODE_K_CAPPED in [notice.code for notice in reply.notices]
    (result,) = reply.results
    assert 1400 < len(result.proponents) + len(result.opponents) <= reply.train_size


def test_discloses_an_example(service: RunningGateway) -> None:
    chosen = explain_rpc(service, top_k=1).results[0].proponents[0]
    example = service.rpc.GetExample(pb.GetExampleRequest(model=MODEL, example_id=chosen.example_id)).example
    assert (example.class_id, example.self_influence) == (chosen.class_id, chosen.self_influence)
    for path in (f"/v1/examples/{chosen.example_id}", f"/v1/models/{MODEL}/examples/{chosen.example_id}"):
        assert service.http.get(path).json()["example_id"] == chosen.example_id
    missing = service.http.get("/v1/examples/none/such")
    assert (missing.status_code, missing.json()["reason"]) == (404, "EXAMPLE_UNKNOWN")


def test_lists_suspects_by_self_influence(service: RunningGateway) -> None:
    reply = service.rpc.ListSuspects(pb.ListSuspectsRequest(model=MODEL, limit=20, offset=5))
    values = [suspect.self_influence for suspect in reply.suspects]
    assert values == sorted(values, reverse=True) and len(values) == 20 and reply.total > 1000
    listed = service.http.get(f"/v1/models/{MODEL}/suspects?limit=20&offset=5").json()["suspects"]
    assert [s["example_id"] for s in listed] == [s.example_id for s in reply.suspects]


def test_keeps_request_ids_and_deadlines(service: RunningGateway) -> None:
    request = pb.PredictRequest(model=MODEL, encoded_image=GOOD)
    _, call = service.rpc.Predict.with_call(request, metadata=(("x-request-id", "trace-7"),))
    assert dict(call.trailing_metadata())["x-request-id"] == "trace-7"
    reply = service.http.get("/healthz", headers={"x-request-id": "trace-8"})
    assert reply.headers["x-request-id"] == "trace-8"
    service.wait_for(lambda: "request_id=trace-7" in service.log.read_text(), 5)
    with pytest.raises(grpc.RpcError) as caught:
        service.rpc.Explain(pb.ExplainRequest(model=MODEL, encoded_image=GOOD), timeout=0.0005)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_tells_health_schema_and_figures(service: RunningGateway) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", "proponent.v1.ExplanationService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = next(reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo(asked))
    assert "proponent.v1.ExplanationService" in [s.name for s in listed.list_services_response.service]
    explain_rpc(service)
    text = service.http.get("/metrics").text
    for name in (
        "rpc_server_call_duration_seconds_bucket",
        "proponent_worker_stage_duration_seconds_count",
        "proponent_bundle_info",
    ):
        assert f"\n{name}{{" in text
    paths = service.http.get("/openapi.json").json()["paths"]
    assert "/v1/models/{model}:explain" in paths


def test_paths_and_methods_that_are_not_there(service: RunningGateway) -> None:
    for method, path, status in (
        ("GET", "/v3", 404),
        ("GET", f"/v1/models/{MODEL}:predict", 404),
        ("PUT", "/metrics", 405),
    ):
        reply = service.http.request(method, path)
        assert (reply.status_code, reply.json()["status"]) == (status, status)


@pytest.mark.parametrize("part", ["worker", "ModelServer"])
def test_recovers_from_a_killed_part(service: RunningGateway, part: str) -> None:
    """Runs last of those that share the service: the worker that explains dies, then TorchServe as a whole."""
    victim = service.worker() if part == "worker" else service.part(part)
    victim.kill()
    service.wait_for(lambda: service.get("/readyz").status_code == 503, 10)  # type: ignore[union-attr]
    with pytest.raises(grpc.RpcError) as caught:
        explain_rpc(service)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    started = time.monotonic()
    service.wait_ready()
    assert time.monotonic() - started < 45
    assert_good(service)
    died = {
        "worker": f'worker_restarts_total{{model="{MODEL}"}}',
        "ModelServer": "torchserve_restarts_total",
    }
    assert f"proponent_{died[part]} 1.0" in service.http.get("/metrics").text
