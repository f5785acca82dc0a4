"""TorchServe's management API: register and switch versions of models, and ask for their workers."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from proponent.errors import UnavailableError
from proponent.gateway.hosting.host import REFUSED, WorkerDefectError, WorkerStatus
from proponent.gateway.torchserve.http_client import HttpClient

_FIRST_ERROR = 400
# Requests have no body; one of JSON would be read instead of the URL.
_NO_CONTENT = "text/plain"
_LONGEST_REPLY = 16 << 20


class Management:
    """Client of the management API; every failure is an UnavailableError.

    Args:
        address: ``host:port``.
        key: Of the API.
        timeout_s: Longest time for an answer.
    """

    def __init__(self, address: str, key: str, timeout_s: float = 10.0) -> None:
        self._client = HttpClient[tuple[int, bytes]](_NO_CONTENT, _LONGEST_REPLY, lambda *reply: reply)
        self._client.connect(address, key)
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    async def register(self, directory: str) -> None:
        """Registers a directory of the model store; its workers start in the background."""
        await self._call("POST", f"/models?{urlencode({'url': directory, 'synchronous': 'false'})}")

    async def set_default(self, model: str, version: str) -> None:
        """Sends requests that name no version to this one."""
        await self._call("PUT", f"/models/{model}/{version}/set-default")

    async def unregister(self, model: str, version: str) -> None:
        """Removes a version and its workers."""
        await self._call("DELETE", f"/models/{model}/{version}")

    async def workers(self, model: str, version: str) -> list[WorkerStatus]:
        """The workers of a registered version."""
        path = f"/models/{model}/{version}"
        try:
            described = json.loads(await self._call("GET", path))
        except ValueError as error:
            raise _silent("GET", path, error) from error
        return [WorkerStatus(str(w["id"]), int(w["pid"]), str(w["status"])) for w in described[0]["workers"]]

    async def _call(self, method: str, path: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._client.request(method, path)
        except (OSError, TimeoutError, WorkerDefectError) as error:
            raise _silent(method, path, error) from error
        if status >= _FIRST_ERROR:
            text = body[:300].decode(errors="replace")
            raise UnavailableError(f"TorchServe refused {method} {path}: {status} {text}", reason=REFUSED)
        return body


def _silent(method: str, path: str, error: Exception) -> UnavailableError:
    return UnavailableError(f"TorchServe did not answer {method} {path}: {error!r}")
