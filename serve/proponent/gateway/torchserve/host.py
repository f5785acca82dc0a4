"""TorchServe as a host of workers: each group is a version of a model of its own there.

A request of TorchServe's is a whole batch, that this side has gathered: its frontend then has one request to hand on
in place of many, and a worker's death takes what the worker had, never what waited for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from proponent.bounds.frames import BATCH, joined, unpack
from proponent.errors import UnavailableError
from proponent.gateway.hosting.batcher import Batcher, batcher_of
from proponent.gateway.hosting.host import REFUSED, WorkerDefectError, WorkerGoneError, WorkerGroup, WorkerStatus
from proponent.gateway.hosting.private import LIVENESS
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.archive import archive_path, remove_archive, write_archive
from proponent.gateway.torchserve.http_client import HttpClient
from proponent.gateway.torchserve.launch import Layout, reply_bytes
from proponent.gateway.torchserve.management import Management
from proponent.gateway.torchserve.process import TorchServe

_STOP_GRACE_S = 8.0
_OK = 200
# No such version, and no worker. TorchServe says the second for a full queue too. That cannot be: a slot is held
# until the worker is done with its request, and the queue has room for all slots twice.
_NO_WORKER = (404, 503)
_WORKER_DIED = b"Worker died"
_LONGEST_DETAILS = 4096


@asynccontextmanager
async def torchserve_host(root: Path, settings: Settings) -> AsyncIterator[TorchServeHost]:
    """A TorchServe that listens, for the length of a block.

    Raises:
        UnavailableError: It does not start.
    """
    layout = Layout(root)
    torchserve = await TorchServe.start(layout, settings)
    inference, grace_s = HttpClient(BATCH, reply_bytes(settings), answer_of), _STOP_GRACE_S
    try:
        await torchserve.listening(settings.start_timeout)
        inference.connect(torchserve.inference_address, torchserve.keys.inference)
        async with torchserve.management() as management:
            yield TorchServeHost(torchserve, management, inference, layout)
    except UnavailableError:
        grace_s = 0.0  # one that hangs would not end by itself
        raise
    finally:
        inference.close()
        await torchserve.stop(grace_s)


class TorchServeHost:
    """A TorchServe that listens."""

    def __init__(
        self, torchserve: TorchServe, management: Management, inference: HttpClient[list[bytes]], layout: Layout
    ) -> None:
        self._torchserve = torchserve
        self._management = management
        self._inference = inference
        self._layout = layout
        self._versions = defaultdict[str, list[str]](list)
        self._batchers: dict[tuple[str, str], Batcher] = {}

    @property
    def ended(self) -> bool:
        """Whether Java is gone."""
        return self._torchserve.ended

    async def pause(self, seconds: float) -> None:
        """Waits, but not longer than Java lives."""
        await self._torchserve.pause(seconds)

    async def register(self, group: WorkerGroup) -> None:
        """Registers a version, from a directory that is written for it."""
        settings, store, liveness = group.settings, self._layout.model_store, self._layout.root / LIVENESS
        try:
            archive = write_archive(
                store, group.model, group.version, group.bundle, group.weights, settings, liveness, group.lane
            )
        except OSError as error:
            raise UnavailableError(f"{group.name} cannot be registered: {error}", reason=REFUSED) from error
        await self._management.register(archive.path.name)
        self._versions[group.name].append(group.version)
        self._batchers[group.name, group.version] = batcher_of(group, partial(self._post, group.name, group.version))

    async def unregister(self, group: WorkerGroup) -> None:
        """Removes a version and its directory."""
        versions = self._versions[group.name]
        if group.version in versions:
            versions.remove(group.version)
        try:
            # TorchServe does not let go of the version that requests without one would get.
            if versions:
                await self._management.set_default(group.name, versions[-1])
            await self._management.unregister(group.name, group.version)
        finally:
            if (batcher := self._batchers.pop((group.name, group.version), None)) is not None:
                batcher.close()
            remove_archive(archive_path(self._layout.model_store, group.name, group.version))

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        """The workers of a version."""
        return await self._management.workers(group.name, group.version)

    def ask(self, name: str, version: str, request: bytes) -> asyncio.Future[bytes]:
        """What a worker of a version will reply."""
        batcher = self._batchers.get((name, version))
        if batcher is None:
            raise WorkerGoneError(f"{name} {version} is not registered")
        return batcher.ask(request)

    def _post(self, name: str, version: str, batch: list[bytes]) -> asyncio.Future[list[bytes]]:
        return self._inference.request("POST", f"/predictions/{name}/{version}", joined(batch))


def answer_of(status: int, body: bytes) -> list[bytes]:
    """A worker's replies to a batch in TorchServe's.

    Raises:
        WorkerGoneError: It died, or there is none.
        WorkerDefectError: TorchServe or the handler failed.
    """
    if status == _OK:
        return unpack(body)
    details = body[:_LONGEST_DETAILS].decode(errors="replace")
    if status in _NO_WORKER or _WORKER_DIED in body:
        raise WorkerGoneError(details)
    raise WorkerDefectError(f"model server failed: {status} {details}")
