"""The HTTP transport translates: KServe bodies in, proto JSON out, problems that name the caller's own field."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from gateway_fakes import Service, echo
from proponent.errors import DeadlineError, MismatchError, UnavailableError
from proponent.gateway.http.app import create_app
from proponent.gateway.http.docs import docs_page
from proponent.gateway.http.reply import to_json
from proponent.gateway.lane import Lane
from proponent.gateway.served_model import Readiness
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

IMAGE = base64.b64encode(b"png").decode()
EXPLAIN = "/v1/models/toy:explain"


class AppClient:
    """A client of the application in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.readiness = Readiness(service.models)
        self._app = create_app(service.calls, service.metrics, self.readiness, service.settings)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def sent(self) -> pb.ExplainRequest:
        return self.service.worker.asked[-1][0].explain


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppClient]:
    service = Service(tmp_path, allow_examples=True, allow_thumbnails=True)
    yield AppClient(service)
    service.close()


@pytest.mark.parametrize(
    "image", [{"image": IMAGE}, {"image": {"b64": IMAGE}}, {"image_b64": IMAGE}, {"encodedImage": IMAGE}]
)
def test_takes_an_image_under_any_of_its_names(app: AppClient, image: dict[str, Any]) -> None:
    assert app("POST", EXPLAIN, json={"instances": [image]}).status_code == 200
    assert app.sent() == pb.ExplainRequest(model="toy", encoded_image=b"png")


@pytest.mark.parametrize("names", ["snake", "camel"])
def test_reads_every_option(app: AppClient, names: str) -> None:
    snake = names == "snake"
    options = {
        "top_k" if snake else "topK": 4,
        "measures": ["theta-relatif", "MEASURE_INFLUENCE", "l_relatif"],
        "target": {
            "contrast": {"for_class_id": 1, "against_class_id": 2}
            if snake
            else {"forClassId": 1, "againstClassId": 2}
        },
        "filter": {"deny_class_ids" if snake else "denyClassIds": [2]},
        "diversity": {"redundancy": "facility-location", "gamma": 0.5},
        "view": "metadata",
        "request_id" if snake else "requestId": "r",
    }
    assert app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}], **options}).status_code == 200
    assert app.sent() == pb.ExplainRequest(
        model="toy",
        encoded_image=b"png",
        top_k=4,
        measures=[2, 1, 3],
        target=pb.Target(contrast=pb.Contrast(for_class_id=1, against_class_id=2)),
        filter=pb.Filter(deny_class_ids=[2]),
        diversity=pb.Diversity(redundancy=pb.REDUNDANCY_FACILITY_LOCATION, gamma=0.5),
        view=pb.VIEW_METADATA,
        request_id="r",
    )


def test_a_header_is_the_deadline_of_every_call_that_a_worker_answers(app: AppClient) -> None:
    bodies = {
        "predict": {"instances": [{"image": IMAGE}]},
        "explain": {"instances": [{"image": IMAGE}]},
        "scoreExamples": {"query": {"image": IMAGE}, "example_ids": ["toy/1"]},
        "estimateRemoval": {"query": {"image": IMAGE}, "example_ids": ["toy/1"]},
        "findFlipSet": {"query": {"image": IMAGE}},
    }
    for number, (verb, body) in enumerate(bodies.items(), start=1):
        reply = app("POST", f"/v1/models/toy:{verb}", json=body, headers={"x-request-timeout": "2.5"})
        assert reply.status_code == 200 and len(app.service.worker.asked) == number
        assert 1.5 < app.service.worker.asked[-1][1] <= 2.5
    app("POST", EXPLAIN, json=bodies["explain"], headers={"x-request-timeout": "1e6"})
    assert 29 < app.service.worker.asked[-1][1] <= 30  # the server's own bound


def test_a_late_explanation_over_http_leaves_the_prediction(app: AppClient) -> None:
    def late(request: WorkerRequest) -> WorkerReply:
        if request.WhichOneof("call") == "explain":
            raise DeadlineError("the deadline passed before the answer was ready")
        return echo(request)

    app.service.worker.handle = late
    asked = {"instances": [{"image": IMAGE}], "deadline_policy": "DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE"}
    reply = app("POST", EXPLAIN, json=asked, headers={"x-request-timeout": "5"}).json()
    assert [each["code"] for each in reply["explanations"][0]["notices"]] == ["CODE_EXPLANATION_LATE"]
    spans = [timeout_s for _, timeout_s in app.service.worker.asked]
    assert 4 < spans[0] <= 4.75 and 4 < spans[1] <= 5


def test_a_worker_that_is_away_takes_no_prediction_with_it(app: AppClient) -> None:
    app.service.model.set_error(UnavailableError("starting", reason="WORKER_STARTING"), Lane.EXPLANATIONS)
    policy = {"deadline_policy": "DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE"}
    reply = app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}], **policy})
    assert [each["code"] for each in reply.json()["explanations"][0]["notices"]] == ["CODE_EXPLANATION_LATE"]
    tensor = {"name": "tensor", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}
    asked = {"inputs": [tensor], "outputs": [{"name": "label"}, {"name": "proponents.influence.counts"}]}
    found = app("POST", "/v2/models/toy/infer", json={**asked, "parameters": policy}).json()["outputs"]
    assert [output["data"] for output in found] == [["b"], [0]]
    for path, body in (
        (EXPLAIN, {"instances": [{"image": IMAGE}, {"image": IMAGE, **policy}]}),
        ("/v2/models/toy/infer", asked),
    ):
        assert app("POST", path, json=body).status_code == 503


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_time_that_is_none_is_refused(app: AppClient, text: str) -> None:
    reply = app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}]}, headers={"x-request-timeout": text})
    assert (reply.status_code, reply.json()["field"]) == (400, "x-request-timeout")


def test_reads_flat_options_of_a_form(app: AppClient) -> None:
    form = {
        "measures": "influence,l-relatif",
        "for_class_id": "1",
        "against_class_id": "0",
        "exclude_example_ids": "a, b",
    }
    files = {"image": ("x.png", b"png", "image/png")}
    assert app("POST", EXPLAIN, files=files, data={**form, "options": '{"top_k": 2}'}).status_code == 200
    assert app.sent() == pb.ExplainRequest(
        model="toy",
        encoded_image=b"png",
        top_k=2,
        measures=[1, 3],
        target=pb.Target(contrast=pb.Contrast(for_class_id=1, against_class_id=0)),
        filter=pb.Filter(exclude_example_ids=["a", "b"]),
    )


def test_a_bare_list_is_a_tensor(app: AppClient) -> None:
    values = [[[1, 2], [3, 4.5]]]
    reply = app("POST", "/v1/models/toy:predict", json={"instances": [values, {"tensor": values}]})
    assert [p["label"] for p in reply.json()["predictions"]] == ["b", "b"]
    first, second = (request.predict.tensor for request, _ in app.service.worker.asked)
    assert first == second and np.frombuffer(first.data, "<f4").tolist() == [1, 2, 3, 4.5]


@pytest.mark.parametrize(
    ("instance", "field", "reason"),
    [
        ({"image": "***"}, "instances[0].image", "INVALID_INPUT"),
        ({"image": {"base64": IMAGE}}, "instances[0].image", "INVALID_INPUT"),
        ({"image": IMAGE, "image_b64": IMAGE}, "instances[0].image_b64", "INVALID_INPUT"),
        ({"image": IMAGE, "tensor": [[[1, 2], [3, 4]]]}, "instances[0].input", "INVALID_INPUT"),
        ({"tensor": [[[1, 2], [3]]]}, "instances[0].tensor", "TENSOR_WRONG_SHAPE"),
        ({"tensor": [[["1", "2"], ["3", "4"]]]}, "instances[0].tensor", "TENSOR_WRONG_DTYPE"),
        ({"tensor": [[[True, False], [True, True]]]}, "instances[0].tensor.dtype", "TENSOR_WRONG_DTYPE"),
        ({"tensor": [[[1, 2], [3, 1e300]]]}, "instances[0].tensor.data", "TENSOR_NOT_FINITE"),
        ({"image": IMAGE, "colour": 1}, "instances[0].colour", "INVALID_INPUT"),
        ({"image": IMAGE, "top_k": "many"}, "instances[0].top_k", "INVALID_INPUT"),
        ({"image": IMAGE, "top_k": 1.5}, "instances[0].top_k", "INVALID_INPUT"),
        ({"image": IMAGE, "\ud800": 1}, "instances[0]", "INVALID_INPUT"),
        ({"image": IMAGE, "measures": "cosine"}, "instances[0].measures[0]", "MEASURE_UNKNOWN"),
        ({"image": IMAGE, "view": "all"}, "instances[0].view", "VIEW_UNKNOWN"),
        ({"image": IMAGE, "model": "toy"}, "instances[0].model", "INVALID_INPUT"),
        (7, "instances[0]", "INVALID_INPUT"),
    ],
)
def test_names_the_field_at_fault(app: AppClient, instance: Any, field: str, reason: str) -> None:
    content = json.dumps({"instances": [instance]})
    reply = app("POST", EXPLAIN, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["reason"] == reason
    assert problem["field"] == field, problem


def test_nan_is_named_and_not_taken_for_bad_json(app: AppClient) -> None:
    content = '{"instances": [{"tensor": [[[1, 2], [3, NaN]]]}]}'
    reply = app("POST", EXPLAIN, content=content, headers={"content-type": "application/json"})
    assert (reply.json()["reason"], reply.json()["field"]) == ("TENSOR_NOT_FINITE", "instances[0].tensor.data")


def test_one_bad_instance_of_several_fails_alone(app: AppClient) -> None:
    reply = app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}, {"image": IMAGE, "top_k": -1}]})
    assert reply.status_code == 200
    good, bad = reply.json()["predictions"]
    assert good["class_id"] == 1 and bad["error"]["field"] == "instances[1].top_k"
    assert bad == reply.json()["explanations"][1]


def test_the_query_calls_translate(app: AppClient) -> None:
    body = {"query": {"image": IMAGE, "measures": ["influence"]}, "exampleIds": ["toy/1"]}
    reply = app("POST", "/v1/models/toy:scoreExamples", json=body)
    assert reply.status_code == 200 and reply.json()["prediction"]["class_id"] == 1
    sent = app.service.worker.asked[-1][0].score
    assert (sent.query.model, list(sent.query.measures), list(sent.example_ids)) == ("toy", [1], ["toy/1"])
    missing = app("POST", "/v1/models/toy:estimateRemoval", json={"example_ids": ["toy/1"]})
    assert (missing.status_code, missing.json()["field"]) == (400, "query")
    refused = app("POST", "/v1/models/toy:findFlipSet", json={"query": {"image": IMAGE, "target": {"class_id": 8}}})
    assert (refused.status_code, refused.json()["field"]) == (400, "query.target.class_id")


def test_looks_up_models_examples_and_suspects(app: AppClient) -> None:
    model = app("GET", "/v1/models/toy").json()
    assert model["ready"] and model["train_size"] == 5000 and model["audit"] == {"spearman": 0.99}
    assert app("GET", "/v1/models").json() == {"models": ["toy"], "ready": {"toy": True}, "unavailable": {}}
    for path in ("/v1/examples/toy/4", "/v1/examples/toy/4?model=toy", "/v1/models/toy/examples/toy/4"):
        assert app("GET", path).json()["label"] == "b"
    assert [s["example_id"] for s in app("GET", "/v1/models/toy/suspects?limit=1").json()["suspects"]] == ["toy/19"]
    assert app("GET", "/v1/models/toy/suspects?limit=x").status_code == 400


@pytest.mark.parametrize("name", ["toy/400", "/a", "a//b/", "two\nlines\n", "../up", "100%", "a?b#c", "x:explain"])
@pytest.mark.parametrize("path", ["/v1/models/toy/examples/", "/v1/examples/"])
def test_ids_are_any_text(app: AppClient, path: str, name: str) -> None:
    answer = app("GET", path + quote(name, safe="" if name.startswith(".") else "/"))
    assert (answer.status_code, answer.json()["field"]) == (404, "example_id")
    assert repr(name)[1:-1] in answer.json()["detail"]


def test_readiness_is_503_whatever_the_reason(app: AppClient) -> None:
    assert app("GET", "/readyz").status_code == 200
    app.service.model.set_error(MismatchError("weights differ"))
    reply = app("GET", "/readyz")
    assert (reply.status_code, reply.json()["reason"]) == (503, "INDEX_MODEL_MISMATCH")
    assert app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}]}).status_code == 409
    app.service.model.set_error(UnavailableError("starting"))
    assert app("GET", "/readyz").headers["retry-after"]
    assert app("GET", "/healthz").status_code == 200


def test_each_model_has_a_readiness_of_its_own(app: AppClient) -> None:
    assert app("GET", "/v1/models/toy:ready").json() == {"name": "toy", "ready": True}
    app.service.model.set_error(MismatchError("weights"))
    reply = app("GET", "/v1/models/toy:ready")
    assert (reply.status_code, reply.json()["reason"]) == (503, "INDEX_MODEL_MISMATCH")
    assert app("GET", "/v1/models/other:ready").status_code == 404


def test_a_defect_is_a_problem_without_its_text(app: AppClient) -> None:
    def fail(request: object) -> WorkerReply:
        raise ZeroDivisionError("secret")

    app.service.worker.handle = fail
    reply = app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}]})
    assert reply.status_code == 500 and "secret" not in reply.text


def test_integers_are_numbers_and_every_field_is_there() -> None:
    message = pb.ExplainResponse(train_size=10, notices=[pb.Notice(code=1, count=7)])
    values = to_json(message)
    assert values["train_size"] == 10 and values["notices"][0]["count"] == 7
    assert values["results"] == [] and values["target_class_id"] == 0
    assert to_json(pb.GetModelResponse(input_shape=[1, 8]))["input_shape"] == [1, 8]


def test_the_docs_page_describes_every_path_and_loads_nothing(app: AppClient) -> None:
    page = app("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path, methods in app("GET", "/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert "facility-location" in page.text
    assert not any(sign in page.text for sign in ("<script", "src=", "http://", "https://", "@import", "url("))


def test_the_docs_page_escapes_what_it_shows() -> None:
    operation = {"description": "<b>", "requestBody": {"content": {"a/b": {"schema": {"x": "</pre><script>"}}}}}
    page = docs_page({"info": {"title": "<i>"}, "paths": {"/<p>": {"get": operation}}})
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page and "<p></h3>" not in page


def test_a_large_form_needs_no_temporary_directory(
    app: AppClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    image = b"x" * (3 << 20)
    assert app("POST", EXPLAIN, files={"image": ("x.png", image, "image/png")}).status_code == 200
    assert app.sent().encoded_image == image


def test_forgotten_examples_are_not_disclosed(app: AppClient) -> None:
    before = app("GET", "/v1/models/toy/suspects?limit=3").json()
    first = before["suspects"][0]["example_id"]
    assert app("GET", f"/v1/examples/{first}").status_code == 200
    app.service.tombstones.add([first], "2026-01-01T00:00:00+00:00")
    after = app("GET", "/v1/models/toy/suspects?limit=2").json()
    assert after["suspects"][0]["example_id"] == before["suspects"][1]["example_id"]
    assert after["total"] == before["total"] - 1
    gone = app("GET", f"/v1/examples/{first}")
    assert (gone.status_code, gone.json()["reason"]) == (404, "EXAMPLE_UNKNOWN")
    app.service.tombstones.path.write_text("{")
    broken = app("GET", "/v1/examples/toy/3")
    assert (broken.status_code, broken.json()["reason"]) == (503, "BUNDLE_CORRUPT")


def test_one_bundle_answers_all_instances_of_a_call(app: AppClient) -> None:
    """A switch in the middle of a call must not mix two bundles in it."""
    service = app.service
    old = service.model.deployment
    new = service.model.prepare(replace(old.bundle, manifest=replace(old.manifest, digest="e" * 64)))
    asked = []

    def answer(request: WorkerRequest) -> WorkerReply:
        asked.append(service.worker.deployments[-1])
        service.model.switch(new)
        return echo(request)

    service.worker.handle = answer
    reply = app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}] * 40}).json()
    assert len(asked) == 40 and set(asked) == {old}
    assert reply["bundle_digest"] == old.manifest.digest
    assert app("POST", EXPLAIN, json={"instances": [{"image": IMAGE}]}).json()["bundle_digest"] == "e" * 64
    assert asked[-1] is new
    asyncio.run(asyncio.wait_for(old.idle(), 1))


def test_a_damaged_file_is_named_without_its_directory(app: AppClient) -> None:
    catalog = app.service.model.deployment.bundle.path / "catalog.sqlite"
    catalog.write_bytes(b"\0" * catalog.stat().st_size)
    for path in ("/v1/examples/toy/3", "/v1/models/toy/suspects"):
        reply = app("GET", path)
        assert (reply.status_code, reply.json()["reason"]) == (503, "BUNDLE_CORRUPT")
        assert "catalog.sqlite" in reply.text and str(catalog.parent) not in reply.text
    app.service.model.set_error(UnavailableError(f"{catalog.parent}/rows.faiss is damaged"))
    assert app("GET", "/readyz").json()["detail"] == "rows.faiss is damaged"


@pytest.mark.parametrize(
    "content",
    [
        '{"instances": [{"\\ud800": 1}]}',
        '{"\\ud800": 1, "instances": [[]]}',
        '{"instances": [{"image": "\\ud800"}]}',
        '{"instances": [{"image": "AAAA", "request_id": "\\ud800"}]}',
        '{"instances": [{"image": "AAAA", "filter": {"exclude_example_ids": ["\\udfff"]}}]}',
        '{"instances": [{"image": "AAAA", "view": "\\ud800"}]}',
        '{"instances": ["\\ud800\\u0000"]}',
        '{"instances": [{"image": "AAAA", "top_k": 1e400}]}',
        '{"instances": [{"image": "AAAA", "top_k": 1' + "0" * 5000 + "}]}",
        '{"instances": [{"image": "AAAA", "top_k": 9223372036854775808}]}',
        '{"instances": [{"image": "AAAA", "measures": {"a": 1}}]}',
        '{"instances": [{"image": "AAAA", "measures": [null, [1]]}]}',
        '{"instances": [{"image": "AAAA", "target": 5, "filter": [], "diversity": "x"}]}',
        '{"instances": [{"image": "AAAA", "diversity": {"redundancy": [1]}}]}',
        '{"instances": [{"tensor": {"data": 5}}]}',
        '{"instances": [{"tensor": ' + "[" * 300 + "]" * 300 + "}]}",
        '{"instances": {"0": 1}}',
        "\ufeff{}",
        '"\\ud800"',
    ],
)
def test_odd_json_is_bad_input(app: AppClient, content: str) -> None:
    headers = {"content-type": "application/json"}
    reply = app("POST", EXPLAIN, content=content.encode(), headers=headers)
    assert (reply.status_code, reply.json()["status"]) == (400, 400), reply.text


@pytest.mark.parametrize(
    "query",
    [
        "limit=9223372036854775807",
        "limit=-1",
        "offset=-1",
        "offset=9223372036854775808",
        "limit=%ff",
        "x=1",
    ],
)
def test_odd_pages_are_bad_input(app: AppClient, query: str) -> None:
    assert app("GET", f"/v1/models/toy/suspects?{query}").status_code == 400


def test_odd_forms_are_bad_input(app: AppClient) -> None:
    files = {"image": ("x.png", b"png", "image/png")}
    for data in ({"target": "5", "class_id": "1"}, {"options": '{"filter": 1}', "allow_class_ids": "1"}):
        assert app("POST", EXPLAIN, files=files, data=data).status_code == 400
    for content in (b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--", b"--x\r\n: \r\n\r\n", b"\0" * 99):
        headers = {"content-type": "multipart/form-data; boundary=x; charset=base64"}
        assert app("POST", EXPLAIN, content=content, headers=headers).status_code == 400
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert app("POST", EXPLAIN, content=b"{}", headers=headers).status_code == 415


def test_the_cap_on_examples_is_for_the_whole_reply(app: AppClient) -> None:
    body = {"instances": [{"image": IMAGE}] * 20, "top_k": 900}
    reply = app("POST", EXPLAIN, json=body)
    assert (reply.status_code, reply.json()["reason"]) == (400, "REPLY_TOO_LARGE") and not app.service.worker.asked
    assert "108000 examples" in reply.json()["detail"] and reply.json()["field"] == "instances"
    assert app("POST", EXPLAIN, json={**body, "view": "thumbnail", "top_k": 17}).status_code == 400
    assert app("POST", EXPLAIN, json={**body, "top_k": 800}).status_code == 200
    assert len(app.service.worker.asked) == 20


def test_pages_of_suspects_follow_each_other(app: AppClient) -> None:
    path, found = "/v1/models/toy/suspects?limit=7", []
    page = app("GET", path).json()
    while page["next_page_token"]:
        found += page["suspects"]
        page = app("GET", f"{path}&page_token={page['next_page_token']}").json()
    names = [suspect["example_id"] for suspect in found + page["suspects"]]
    assert names == [f"toy/{row}" for row in range(19, -1, -1)]
    assert app("GET", f"{path}&offset=9223372036854775807").json()["suspects"] == []
    for bad in ("page_token=x", "offset=1&page_token=x", "page_token=" + "x" * 300):
        assert app("GET", f"{path}&{bad}").status_code == 400
