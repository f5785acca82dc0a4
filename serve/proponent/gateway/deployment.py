"""A bundle in service: what this process reads of it, and the version of its model in TorchServe that answers for it.

A request is checked against, and answered by, one deployment from start to end, whatever is published meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from proponent.errors import CorruptBundleError
from proponent.gateway.lane import Lane
from proponent.index.bundle import CATALOG, SAMPLES, Manifest, read_manifest
from proponent.index.catalog import Catalog
from proponent.index.example_list import ExampleList
from proponent.index.example_summary import Summaries
from proponent.index.samples import Samples
from proponent.index.tombstones import Tombstones


@dataclass(frozen=True)
class BundleHandle:
    """What this process reads of a bundle; ``tombstones`` are the model's, whichever bundle is current."""

    path: Path
    manifest: Manifest
    catalog: Catalog
    tombstones: Tombstones
    samples: Samples | None = None

    @cached_property
    def examples(self) -> ExampleList:
        """Lists of the catalog's examples."""
        return ExampleList(self.catalog)

    @cached_property
    def summaries(self) -> Summaries:
        """Counts of the catalog's examples."""
        return Summaries(self.catalog)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a bundle.

        Raises:
            CorruptBundleError: Its manifest, catalog or samples cannot be read.
        """
        manifest = read_manifest(path)
        catalog = Catalog.open(path / CATALOG)
        try:
            samples = Samples.open(path / SAMPLES) if manifest.samples else None
        except CorruptBundleError:
            catalog.close()
            raise
        return cls(path, manifest, catalog, Tombstones.beside(path), samples)

    def close(self) -> None:
        """Closes its files."""
        self.catalog.close()
        if self.samples is not None:
            self.samples.close()


class Deployment:
    """One bundle and the TorchServe version that answers for it; counts the requests that it is answering.

    Attributes:
        lanes: The queues that it has; without one of predictions, they are answered by those who explain.
    """

    def __init__(self, model: str, version: str, bundle: BundleHandle, lanes: Sequence[Lane] = tuple(Lane)) -> None:
        self.model = model
        self.version = version
        self.bundle = bundle
        self.lanes = tuple(lanes)
        self._in_use = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def served_as(self, lane: Lane) -> str:
        """The name under which TorchServe answers the requests of a lane."""
        return (lane if lane in self.lanes else Lane.EXPLANATIONS).served_as(self.model)

    def hold(self) -> None:
        """Keeps the deployment from being removed until ``release`` is called as often."""
        self._in_use += 1
        self._idle.clear()

    def release(self) -> None:
        """One holds it no more."""
        self._in_use -= 1
        if not self._in_use:
            self._idle.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Holds the deployment for the length of a block."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    async def idle(self) -> None:
        """Waits until nothing uses it; only for a deployment that takes no new requests."""
        await self._idle.wait()

    def close(self) -> None:
        """Closes the bundle's files."""
        self.bundle.close()
