"""Tokens are known by their hashes alone; their file is read again while calls go on, and a broken one is left."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from listening import Listening, run
from proponent.errors import PermissionDeniedError, SpecError, UnauthenticatedError
from proponent.gateway.auth import Allowance, Authenticator, Scope
from proponent.gateway.auth.token_file import new_token, token_line
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from tokens import knowing, write_tokens

EXPLAIN = pb.StreamExplainRequest(request=pb.ExplainRequest(model="toy", encoded_image=b"png"))


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "proponent.cli", "token", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command_prints_a_token_once_and_a_line_without_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    bounds = ("--level", "rounded", "--rate", "2.5", "--explanations", "10", "--examples", "0")
    done = command("alice", "--scopes", "explain,admin", *bounds)
    assert done.returncode == 0, done.stderr
    token, line = done.stdout.splitlines()
    assert token not in line and len(token) >= 43
    file.write_text(f"# who may call\n\n{line}\n")
    caller = Authenticator(tokens_file=file).require(f"Bearer {token}", Scope.ADMIN)
    assert (caller.name, caller.scopes) == ("alice", {Scope.EXPLAIN, Scope.ADMIN})
    assert (caller.level, caller.allowance) == (DisclosureLevel.ROUNDED, Allowance(2.5, 10, 0))


def test_the_command_adds_to_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    made = [command(name, "--file", file) for name in ("alice", "bob")]
    assert [done.returncode for done in made] == [0, 0] and stat.S_IMODE(file.stat().st_mode) == 0o600
    known = Authenticator(tokens_file=file)
    assert [known.require(f"Bearer {done.stdout.strip()}", None).name for done in made] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("al ice",), "letters, digits"),
        (("alice", "--scopes", "root"), "scopes of predict"),
        (("alice", "--level", "all"), "level of labels"),
        (("alice", "--examples", "-1"), "0 (no bound) or more"),
    ],
)
def test_a_token_that_a_file_could_not_hold_is_not_made(arguments: tuple[str, ...], expected: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2 and done.stdout == "" and expected in done.stderr


def test_a_file_of_plain_tokens_is_refused_and_upgraded(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    old = new_token()
    file.write_text(f"# who\n{old} predict\nshort predict,explain\n")
    with pytest.raises(SpecError, match=r"line 2.*proponent token --upgrade") as caught:
        Authenticator(tokens_file=file)
    assert old not in caught.value.message
    done = command("--upgrade", file)
    assert done.returncode == 0, done.stderr
    assert "line 3" in done.stderr and "line 2" not in done.stderr and "short" in done.stderr
    text = file.read_text()
    assert text.startswith("# who\n") and old not in text and stat.S_IMODE(file.stat().st_mode) == 0o600
    known = Authenticator(tokens_file=file)
    assert known.require(f"Bearer {old}", None).scopes == {Scope.PREDICT}
    assert known.require("Bearer short", Scope.EXPLAIN)
    assert command("--upgrade", file).returncode == 0 and file.read_text() == text


GOOD = token_line("secret", "alice", "predict", {})


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        "sha256:abc name=a scopes=predict",
        GOOD.replace("scopes=predict", "scopes=root"),
        GOOD.replace("name=alice", ""),
        f"{GOOD} level=everything",
        f"{GOOD} examples=many",
        f"{GOOD} rate=-1",
        f"{GOOD} rate=nan",
        f"{GOOD} until=tomorrow",
        f"{GOOD} more",
        GOOD,
    ],
)
def test_a_bad_line_is_given_by_its_number_and_never_quoted(line: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(SpecError, match="line 2") as caught:
        Authenticator(tokens_file=tmp_path / "tokens")
    assert "secret" not in caught.value.message and GOOD.split()[0] not in caught.value.message


def test_a_changed_file_counts_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    known = knowing(file, {"old": "predict", "both": "predict"})
    [watched] = known.files()
    write_tokens(file, {"new": "explain", "both": "explain level=labels"})
    assert known.require("Bearer old", None)
    watched.look()
    assert known.require("Bearer new", Scope.EXPLAIN) and known.require("Bearer both", None).level.name == "LABELS"
    with pytest.raises(UnauthenticatedError):
        known.require("Bearer old", None)
    with pytest.raises(PermissionDeniedError):
        known.require("Bearer both", Scope.PREDICT)
    for broken in (lambda: file.write_text("new explain\n"), file.unlink):
        broken()
        watched.look()
        assert known.require("Bearer new", None)
    write_tokens(file, {"last": "predict"})
    watched.look()
    assert known.require("Bearer last", None)


def test_an_open_stream_ends_with_its_token(tmp_path: Path) -> None:
    """Item by item, and with its scope: the place in a stream that was opened before is no way around."""
    file = tmp_path / "tokens"
    authenticator = knowing(file, {"key": "explain", "other": "explain"})
    [watched] = authenticator.files()

    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            call = transports.stub(channel).StreamExplain(metadata=(("authorization", "Bearer key"),))
            await call.write(EXPLAIN)
            assert (await call.read()).WhichOneof("outcome") == "response"
            for words, reason in (("predict", "PERMISSION_DENIED"), ("explain", ""), (None, "UNAUTHENTICATED")):
                write_tokens(file, {"other": "explain"} if words is None else {"key": words, "other": "explain"})
                watched.look()
                await call.write(EXPLAIN)
                assert (await call.read()).error.reason == reason

    run(tmp_path, ask, authenticator=authenticator)


def test_metrics_are_for_those_who_run_the_service(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        async with transports.client() as client:
            replies = [
                await client.get("/metrics", headers={"authorization": f"Bearer {token}"})
                for token in ("prometheus", "caller", "unknown")
            ]
            assert [reply.status_code for reply in replies] == [200, 403, 401]
            assert "proponent_" in replies[0].text and "proponent_" not in replies[1].text
            assert [(await client.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]

    tokens = {"prometheus": "admin", "caller": "predict,explain,examples"}
    run(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", tokens))


def test_the_token_decides_the_level_and_without_one_the_setting(tmp_path: Path) -> None:
    tokens = {"open": "explain level=full", "closed": "explain level=labels", "usual": "explain"}
    authenticator = knowing(tmp_path / "tokens", tokens)

    async def ask(transports: Listening) -> None:
        async with transports.client() as client:
            levels = []
            for token in tokens:
                headers = {"authorization": f"Bearer {token}"}
                levels.append((await client.get("/v1/models/toy", headers=headers)).json()["disclosure_level"])
        assert levels == [f"DISCLOSURE_LEVEL_{name}" for name in ("FULL", "LABELS", "FULL")]

    run(tmp_path, ask, authenticator=authenticator)
