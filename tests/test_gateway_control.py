"""The control socket: commands reach the gateway, errors keep their kind, and what a killed one left is replaced."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import sealed_bundle
from proponent.errors import CorruptBundleError, InternalError, InvalidInputError, NotFoundError, UnavailableError
from proponent.gateway.rollout import control_server
from proponent.gateway.rollout.control_client import NOT_SERVED, SOCKET, request
from proponent.gateway.rollout.control_server import LOCK, accept_commands
from proponent.gateway.rollout.membership import LoadResult, UnloadResult
from proponent.gateway.rollout.switch import SwitchResult
from proponent.index.lifecycle import Change
from proponent.index.lock import exclusive
from proponent.index.store import Store
from proponent.publishing import load, publish, rollback, unload

STATUS = {"command": "status"}


class Commands:
    """A rollout that only notes what it is asked; ``error`` is raised instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.caught_up = False

    async def roll_out(self, name: str, digest: str | None = None) -> SwitchResult:
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        self.asked.append((name, digest))
        return SwitchResult(name, "a" * 64, "b" * 64, 1.5, 0.1)

    publish = roll_out

    async def rollback(self, name: str) -> SwitchResult:
        return await self.roll_out(name, "previous")

    async def load(self, name: str) -> LoadResult:
        return LoadResult(name, (await self.roll_out(name, "load")).after, was_served=False, seconds=2.5)

    async def unload(self, name: str) -> UnloadResult:
        await self.roll_out(name, "unload")
        return UnloadResult(name, was_served=True, drained_seconds=0.5)

    async def catch_up(self) -> None:
        self.caught_up = True

    def status(self) -> dict[str, Any]:
        return {"toy": {"ready": True}}


@pytest.fixture
def commands() -> Commands:
    return Commands()


def asked(store: Path, commands: Commands, ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns in a thread while the socket is served."""

    async def run() -> Any:
        async with accept_commands(store, commands, commands):  # type: ignore[arg-type]
            return await asyncio.to_thread(ask)

    return asyncio.run(run())


def test_commands_and_replies(tmp_path: Path, commands: Commands) -> None:
    done = asked(tmp_path, commands, lambda: request(tmp_path, {"command": "publish", "model": "m", "digest": "ab"}))
    assert (done["after"], done["seconds"]) == ("b" * 64, 1.5)
    asked(tmp_path, commands, lambda: request(tmp_path, {"command": "publish", "model": "m"}))
    asked(tmp_path, commands, lambda: request(tmp_path, {"command": "rollback", "model": "m"}))
    assert commands.asked == [("m", "ab"), ("m", None), ("m", "previous")]
    assert asked(tmp_path, commands, lambda: request(tmp_path, STATUS))["models"] == {"toy": {"ready": True}}


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (CorruptBundleError("rows are damaged", field="rows.faiss"), CorruptBundleError, "BUNDLE_CORRUPT"),
        (NotFoundError("none", reason="NO_PREVIOUS"), NotFoundError, "NO_PREVIOUS"),
        (ZeroDivisionError("secret"), InternalError, "INTERNAL"),
    ],
)
def test_errors_keep_kind_reason_and_field(
    tmp_path: Path, commands: Commands, error: Exception, kind: type[Exception], reason: str
) -> None:
    commands.error = error
    with pytest.raises(kind) as caught:
        asked(tmp_path, commands, lambda: request(tmp_path, {"command": "publish", "model": "m"}))
    assert caught.value.reason == reason and "secret" not in str(caught.value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b'{"command": 1}\n', b'{"command": "stop"}\n', b"x" * 70_000, b""])
def test_refuses_what_is_no_command(tmp_path: Path, commands: Commands, line: bytes) -> None:
    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / SOCKET))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                return file.readline()

    reply = asked(tmp_path, commands, send)
    assert not reply or json.loads(reply)["error"]["kind"] == "InvalidInputError"
    assert not commands.asked


def test_nobody_answers_where_no_gateway_runs(tmp_path: Path, commands: Commands) -> None:
    assert request(tmp_path, STATUS) is None
    assert request(tmp_path / "nowhere", STATUS) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    assert request(tmp_path, STATUS) is None
    assert asked(tmp_path, commands, lambda: request(tmp_path, STATUS)) is not None
    assert not (tmp_path / SOCKET).exists()


def test_a_store_with_a_long_path_is_reached_too(tmp_path: Path, commands: Commands) -> None:
    store = tmp_path / ("long" * 20) / ("path" * 20)
    store.mkdir(parents=True)
    assert asked(store, commands, lambda: request(store, STATUS)) is not None


def test_a_second_gateway_leaves_the_socket_to_the_first(tmp_path: Path, commands: Commands) -> None:
    with exclusive(tmp_path / LOCK):
        assert asked(tmp_path, commands, lambda: request(tmp_path, STATUS)) is None
    assert not commands.caught_up


def test_a_second_gateway_succeeds_the_first(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "_POLL_S", 0.01)
    first = ExitStack()
    first.enter_context(exclusive(tmp_path / LOCK))

    def ask() -> Any:
        assert request(tmp_path, STATUS) is None and not commands.caught_up
        first.close()
        for _ in range(500):
            if (reply := request(tmp_path, STATUS)) is not None and commands.caught_up:
                return reply
            time.sleep(0.01)
        return None

    assert asked(tmp_path, commands, ask)["models"] == {"toy": {"ready": True}}
    assert not (tmp_path / SOCKET).exists()
    with exclusive(tmp_path / LOCK):
        pass


def test_a_command_outlives_its_caller(tmp_path: Path, commands: Commands) -> None:
    commands.delay_s = 0.3
    finished = threading.Event()

    def hang_up() -> None:
        with pytest.raises(UnavailableError):
            request(tmp_path, {"command": "publish", "model": "m", "digest": "ab"}, timeout_s=0.05)
        finished.wait(1)

    asked(tmp_path, commands, hang_up)
    assert commands.asked == [("m", "ab")]


def test_publishing_asks_a_gateway_that_serves_the_model(tmp_path: Path, commands: Commands) -> None:
    store = Store(tmp_path)
    first, second = (sealed_bundle(store, note).name for note in ("1", "2"))
    assert publish(store, "toy", first).seconds is None
    change = asked(tmp_path, commands, lambda: publish(store, "toy", second))
    assert change == Change("toy", "a" * 64, "b" * 64, dry_run=False, seconds=1.5)
    assert store.pointer("toy") == {"digest": first}
    asked(tmp_path, commands, lambda: rollback(store, "toy"))
    assert commands.asked == [("toy", second), ("toy", "previous")]
    assert asked(tmp_path, commands, lambda: publish(store, "toy", second, dry_run=True)).seconds is None
    commands.error = NotFoundError("not served", reason=NOT_SERVED)
    assert asked(tmp_path, commands, lambda: publish(store, "toy", second)).after == second
    assert store.pointer("toy") == {"digest": second, "previous": first}
    commands.error = InvalidInputError("bad")
    with pytest.raises(InvalidInputError):
        asked(tmp_path, commands, lambda: rollback(store, "toy"))
    assert store.pointer("toy")["digest"] == second


def test_loading_and_unloading_need_a_gateway(tmp_path: Path, commands: Commands) -> None:
    store = Store(tmp_path)
    for ask in (load, unload):
        with pytest.raises(UnavailableError) as caught:
            ask(store, "toy")
        assert caught.value.reason == "NO_GATEWAY"
    assert asked(tmp_path, commands, lambda: load(store, "toy"))["digest"] == "b" * 64
    assert asked(tmp_path, commands, lambda: unload(store, "toy"))["was_served"] is True
    assert commands.asked == [("toy", "load"), ("toy", "unload")]
    commands.error = NotFoundError("not in the store")
    with pytest.raises(NotFoundError):
        asked(tmp_path, commands, lambda: load(store, "other"))
