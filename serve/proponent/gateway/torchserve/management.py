"""TorchServe's management API: register and switch versions of models, and ask for their workers."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from proponent.errors import UnavailableError
from proponent.gateway.hosting.host import REFUSED, WorkerStatus


class Management:
    """Client of the management API; every failure is an UnavailableError."""

    def __init__(self, base_url: str, key: str, timeout_s: float = 10.0) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def register(self, directory: str) -> None:
        """Registers a directory of the model store; its workers start in the background."""
        await self._call("POST", "/models", params={"url": directory, "synchronous": "false"})

    async def set_default(self, model: str, version: str) -> None:
        """Sends requests that name no version to this one."""
        await self._call("PUT", f"/models/{model}/{version}/set-default")

    async def unregister(self, model: str, version: str) -> None:
        """Removes a version and its workers."""
        await self._call("DELETE", f"/models/{model}/{version}")

    async def workers(self, model: str, version: str) -> list[WorkerStatus]:
        """The workers of a registered version."""
        described = await self._call("GET", f"/models/{model}/{version}")
        return [WorkerStatus(str(w["id"]), int(w["pid"]), str(w["status"])) for w in described[0]["workers"]]

    async def _call(self, method: str, path: str, params: dict[str, str] | None = None) -> Any:
        try:
            response = await self._client.request(method, path, params=params)
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            raise UnavailableError(
                f"TorchServe refused {method} {path}: {error.response.status_code} {error.response.text[:300]}",
                reason=REFUSED,
            ) from error
        except (httpx.HTTPError, ValueError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            raise UnavailableError(f"TorchServe did not answer {method} {path}: {error!r}") from error
