"""What hosts workers, in the words that the gateway has for it: TorchServe or plain processes, as the operator says.

A host runs groups of worker processes, gathers requests into batches for them, and starts a worker again that died.
Everything else is the gateway's: who may ask, in which order, until when, whether a worker is well, and when a host
itself is started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings

REFUSED = "MODEL_REFUSED"
"""Reason of the error of a host that lives and does not do what it is asked."""


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of one lane of one version of a model.

    Attributes:
        model: Its name.
        version: No other group of the lane ever had it.
        lane: What they answer.
        bundle: Directory that they load.
        weights: Deployed weights; None means the bundle's own.
        settings: How many they are, what they take of the machine, and how requests become batches.
    """

    model: str
    version: str
    lane: Lane
    bundle: Path
    weights: Path | None
    settings: Settings

    @property
    def name(self) -> str:
        """What hosts call the lane."""
        return self.lane.served_as(self.model)


@dataclass(frozen=True)
class WorkerStatus:
    """One worker as its host reports it."""

    worker_id: str
    pid: int
    status: str

    @property
    def ready(self) -> bool:
        """Whether the worker has loaded the model."""
        return self.status == "READY"


class WorkerGoneError(Exception):
    """The worker died with the request, or there is none."""


class WorkerDefectError(Exception):
    """A worker or its host met a defect of its own: what it says is logged like one of this process, never told."""


class WorkerHost(Protocol):
    """A host that runs."""

    @property
    def ended(self) -> bool:
        """Whether it is gone, and its workers with it."""

    async def pause(self, seconds: float) -> None:
        """Waits, but not longer than it lives."""

    async def register(self, group: WorkerGroup) -> None:
        """Lets the workers of a group start, in the background.

        Raises:
            UnavailableError: Why not; with the reason REFUSED where that concerns this group alone.
        """

    async def unregister(self, group: WorkerGroup) -> None:
        """Ends the workers of a group; raises like ``register``, for an unknown one too."""

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        """The workers of a group, those that are not ready too; raises like ``register``."""

    def ask(self, name: str, version: str, request: bytes) -> asyncio.Future[bytes]:
        """What a worker of a group will reply to a serialized WorkerRequest; cancelled where nobody waits any longer.

        It may become a WorkerDefectError (the worker or the host failed), an OSError (the host is gone) or a
        WorkerGoneError (the worker died).

        Raises:
            WorkerGoneError: There is no such group.
        """


OpenHost = Callable[[Path, Settings], AbstractAsyncContextManager[WorkerHost]]
"""Starts a host in a private directory, and ends it and all its workers with the block.

Raises UnavailableError where it cannot be started.
"""
