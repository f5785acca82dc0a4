"""On the real processes: no log holds a token or an input, and the audit log holds what was told and to whom."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from inputs import GOOD, MODEL
from running import RunningGateway

from proponent.gateway.auth.token_file import new_token
from proponent.v1 import explanation_pb2 as pb
from tokens import write_tokens

pytestmark = pytest.mark.e2e


class Guarded:
    """A gateway that asks for tokens, logs what it tells, and whose tokens file may be changed."""

    def __init__(self, store: Path, root: Path) -> None:
        self.root = root
        self.token, self.other = new_token(), new_token()
        self.tokens = write_tokens(root / "tokens", {self.token: "predict,explain,examples"})
        options = ("--tokens-file", str(self.tokens), "--audit-log", str(root / "audit.jsonl"), "--allow-examples")
        self.gateway = RunningGateway(store, root / "gateway.log", *options)

    def explain(self, token: str) -> pb.ExplainResponse:
        request = pb.ExplainRequest(model=MODEL, encoded_image=GOOD)
        reply: pb.ExplainResponse = self.gateway.rpc.Explain(request, metadata=self.header(token), timeout=30)
        return reply

    def header(self, token: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {token}"),)

    def texts(self) -> dict[Path, bytes]:
        """Everything that was written by this gateway and what it started."""
        files = [path for folder in (self.root, self.gateway.temporary) for path in folder.rglob("*")]
        return {path: path.read_bytes() for path in files if path.is_file() and path.suffix in (".log", ".jsonl")}


@pytest.fixture(scope="module")
def guarded(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(digits / "store", tmp_path_factory.mktemp("guarded"))
    try:
        made.gateway.wait_ready()
        yield made
        made.gateway.stop()
    finally:
        made.gateway.close()


def code(guarded: Guarded, token: str) -> grpc.StatusCode:
    try:
        guarded.explain(token)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_no_log_holds_a_token_or_an_input(guarded: Guarded) -> None:
    """Good and bad calls by both transports, with the token where it does not belong, and a body that is broken."""
    url, header = f"/v1/models/{MODEL}:explain", dict(guarded.header(guarded.token))
    guarded.explain(guarded.token)
    assert code(guarded, guarded.other) is grpc.StatusCode.UNAUTHENTICATED
    image = {"image": base64.b64encode(GOOD).decode()}
    assert guarded.gateway.http.post(url, json={"instances": [image]}, headers=header).status_code == 200
    assert guarded.gateway.http.post(url, content=GOOD[:-20], headers=header).status_code == 415
    assert (
        guarded.gateway.http.post(url, json={"instances": [image | {"top_k": -1}]}, headers=header).status_code == 400
    )
    refused = guarded.gateway.http.get(
        f"/v1/models/{MODEL}?token={guarded.token}", headers={"authorization": guarded.token}
    )
    assert refused.status_code == 401
    held = guarded.texts()
    assert any(b"rpc" in text for text in held.values()) and any(path.name == "audit.jsonl" for path in held)
    secrets = {
        "token": guarded.token.encode(),
        "refused token": guarded.other.encode(),
        "hash of the token": hashlib.sha256(guarded.token.encode()).hexdigest().encode(),
        "image": GOOD[40:60],
        "image in base64": base64.b64encode(GOOD)[40:80],
        "image in hexadecimal": GOOD[40:60].hex().encode(),
        "image as Python writes it": repr(GOOD[40:60])[2:-1].encode(),
    }
    assert [(name, path) for name, secret in secrets.items() for path, text in held.items() if secret in text] == []


def test_what_was_told_is_in_the_audit_log_before_it_is_told(guarded: Guarded) -> None:
    reply = guarded.explain(guarded.token)
    line = json.loads((guarded.root / "audit.jsonl").read_text().splitlines()[-1])
    told = [i.example_id for result in reply.results for i in (*result.proponents, *result.opponents)]
    assert line["examples"] == list(dict.fromkeys(told)) and len(told) > 20
    assert (line["caller"], line["method"], line["level"]) == ("caller-0", "Explain", "ranks")
    assert line["input_sha256"] == hashlib.sha256(GOOD).hexdigest() and line["bundle"] == reply.bundle_digest
    assert not any(i.HasField("score") for result in reply.results for i in result.proponents)


def test_a_changed_tokens_file_counts_within_seconds(guarded: Guarded) -> None:
    write_tokens(guarded.tokens, {guarded.token: "predict,explain,examples", guarded.other: "explain"})
    deadline = time.monotonic() + 20
    while code(guarded, guarded.other) is not grpc.StatusCode.OK:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    guarded.tokens.write_text("broken\n")
    time.sleep(2.5)
    assert code(guarded, guarded.other) is grpc.StatusCode.OK
    assert "files changed and cannot be used" in guarded.gateway.log.read_text()


def test_a_gateway_that_strangers_reach_does_not_start(digits: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proponent.cli", "serve", str(digits / "store"), "--http-address", "0.0.0.0:0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2 and "insecure" in done.stderr and not list(tmp_path.iterdir())
