"""A host that fails is started again, ever more rarely; what it held is refused before it has ended."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import Service
from proponent.errors import StorageError, UnavailableError
from proponent.gateway.hosting import supervisor
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.settings import Settings


def supervise(tmp_path: Path, open_host: Any, seconds: float) -> Service:
    """Runs a supervisor for so long."""
    service = Service(tmp_path)

    async def run() -> None:
        worker: Any = service.worker
        made = Supervisor(service.models, worker, open_host, service.settings, service.metrics, lambda: None)
        with suppress(TimeoutError):
            await asyncio.wait_for(made.run(), seconds)

    try:
        asyncio.run(run())
    finally:
        service.close()
    return service


def test_a_host_that_does_not_start_is_tried_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(supervisor, "_LONGEST_DELAY_S", 0.4)
    tried: list[float] = []

    @asynccontextmanager
    async def fails(root: Path, settings: Settings) -> AsyncIterator[Any]:
        tried.append(time.monotonic())
        raise UnavailableError("no Java")
        yield

    supervise(tmp_path, fails, 2.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert len(pauses) >= 4
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.4), strict=False))


def test_a_full_disk_at_the_start_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LIVENESS", "n" * 300)  # no such name can be made
    with pytest.raises(StorageError, match="cannot write below"):
        supervise(tmp_path, None, 5.0)


def test_a_model_that_is_watched_no_more_is_asked_nothing_more(tmp_path: Path) -> None:
    service = Service(tmp_path)
    dropped: list[bool] = []

    class NeverAnswers:
        async def verdict(self, *_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                dropped.append(True)

    async def run() -> None:
        worker: Any = NeverAnswers()
        made = Supervisor(service.models, worker, None, service.settings, service.metrics, lambda: None)  # type: ignore[arg-type]
        [model] = service.models
        groups = made.groups(service.models[model].deployment)
        made.adopt(service.models[model].deployment, groups)
        states = list(made._states.values())
        for state in states:
            state.prober.probe_soon()
            state.prober.probe_if_due()
        await asyncio.sleep(0)
        assert made.release(model) == states
        await asyncio.sleep(0)
        assert len(dropped) == len(states) == 2

    try:
        asyncio.run(run())
    finally:
        service.close()
