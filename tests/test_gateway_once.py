"""Whatever the transport, an explanation asks for permission, checks its input and reads readiness once."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_fakes import Service
from proponent.gateway import service as calls
from proponent.gateway.auth import Authenticator
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.grpc.methods import explain_stream
from proponent.gateway.http.app import create_app
from proponent.gateway.served_model import Readiness, ServedModel
from proponent.gateway.service import CallContext
from proponent.v1 import explanation_pb2 as pb

IMAGE = base64.b64encode(b"png").decode()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def counting(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Authenticator, "require")
    count(ServedModel, "require_ready")
    for name in ("check_rules", "check_explanation"):
        count(calls, name)
    return counts


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.close()


def over_http(service: Service, body: dict[str, Any]) -> int:
    app = create_app(service.calls, service.metrics, Readiness(service.models), service.settings)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client:
            return await client.post("/v1/models/toy:explain", json=body)

    return asyncio.run(send()).status_code


@pytest.mark.parametrize("instances", [1, 3])
def test_over_http(service: Service, counted: Counter[str], instances: int) -> None:
    assert over_http(service, {"instances": [{"image": IMAGE}] * instances}) == 200
    assert counted == {
        "require": 1,
        "require_ready": 1,
        "check_rules": instances,
        "check_explanation": instances,
    }


def test_an_item_of_a_stream(service: Service, counted: Counter[str]) -> None:
    async def answers() -> list[pb.StreamExplainResponse]:
        async def messages() -> AsyncIterator[bytes]:
            good = pb.ExplainRequest(model="toy", encoded_image=b"png")
            for request in (good, pb.ExplainRequest(model="toy", encoded_image=b"png", top_k=-1), None):
                yield pb.StreamExplainRequest(request=request).SerializeToString()

        return [answer async for answer in explain_stream(service.calls, messages(), CallContext(caller=ANYBODY), 1)]

    good, bad, empty = asyncio.run(answers())
    assert good.WhichOneof("outcome") == "response"
    assert (bad.error.field, bad.error.reason) == ("top_k", "TOP_K_INVALID")
    assert empty.error.field == "request"
    assert counted == {"require_ready": 1, "check_rules": 2, "check_explanation": 1}
