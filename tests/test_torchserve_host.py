"""TorchServe as a host: each group is a version there, and the one that is asked for by default is never removed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proponent.errors import UnavailableError
from proponent.gateway.hosting.host import REFUSED, WorkerGroup
from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.host import TorchServeHost
from proponent.gateway.torchserve.launch import Layout


class Management:
    """Like TorchServe, does not remove the version that is the default while there are others."""

    def __init__(self) -> None:
        self.versions: dict[str, list[str]] = {}
        self.default: dict[str, str] = {}

    async def register(self, directory: str) -> None:
        name, _, version = directory.rpartition("-")
        self.versions.setdefault(name, []).append(version)
        self.default.setdefault(name, version)

    async def set_default(self, name: str, version: str) -> None:
        self._require(version in self.versions[name])
        self.default[name] = version

    async def unregister(self, name: str, version: str) -> None:
        versions = self.versions.get(name, [])
        self._require(version in versions and (len(versions) == 1 or self.default[name] != version))
        versions.remove(version)
        if not versions:
            del self.versions[name], self.default[name]

    def _require(self, condition: bool) -> None:
        if not condition:
            raise UnavailableError("TorchServe refused", reason=REFUSED)


def test_versions_come_and_go_with_their_files(tmp_path: Path) -> None:
    layout, management = Layout(tmp_path), Management()
    layout.create()
    parts: Any = (None, management, None, layout)
    first = WorkerGroup("toy", "1.0", Lane.PREDICTIONS, tmp_path, None, Settings(store=tmp_path))
    second, unknown = replace(first, version="2.0"), replace(first, version="3.0")

    def files() -> list[str]:
        return sorted(path.name for path in layout.model_store.iterdir())

    async def run() -> None:
        host = TorchServeHost(*parts)
        await host.register(first)
        await host.register(second)
        assert files() == ["toy~predictions-1.0", "toy~predictions-2.0"]
        await host.unregister(first)
        assert management.versions == {"toy~predictions": ["2.0"]} and files() == ["toy~predictions-2.0"]
        with pytest.raises(UnavailableError):
            await host.unregister(unknown)
        await host.unregister(second)
        assert not management.versions and not files()

    asyncio.run(run())
