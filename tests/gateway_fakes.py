"""A served model without TorchServe: a manifest, a catalog in memory and a worker that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from proponent.errors import ProponentError
from proponent.gateway.auth import Authenticator
from proponent.gateway.auth.authenticator import authenticator_of
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.hosting.host import WorkerGroup
from proponent.gateway.lane import Lane
from proponent.gateway.limits.admission import Held
from proponent.gateway.metrics import Metrics
from proponent.gateway.privacy.gate import gate_of
from proponent.gateway.served_model import ServedModel
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.host import TorchServeHost
from proponent.gateway.torchserve.http_client import HttpClient
from proponent.gateway.torchserve.launch import Layout
from proponent.index.bundle import CATALOG, FILES, Manifest, seal
from proponent.index.catalog import Catalog, CatalogEntry, write_catalog
from proponent.index.store import Store
from proponent.index.tombstones import FORGOTTEN, Tombstones
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

SHAPE = (1, 2, 2)


def manifest() -> Manifest:
    return Manifest(
        model="toy",
        created="2026-01-01T00:00:00+00:00",
        weights_sha256="w",
        dataset_sha256="d",
        loss="cross_entropy",
        weight_decay=0.0,
        curvature="exact",
        damping=0.0,
        damping_relative=False,
        embedding_size=4,
        train_size=5000,
        class_names=["a", "b", "c"],
        input_shape=list(SHAPE),
        image_size=[2, 2],
        image_mode="L",
        kept_energy=1.0,
        omitted_rows=0,
        train_accuracy=1.0,
        gradient_norm_ratio=0.0,
        settings={},
        versions={},
        uncovered={"conv": 3},
        uncovered_share=0.25,
        audit={"spearman": 0.99},
        digest="f" * 64,
    )


def catalog(directory: Path) -> Catalog:
    entries = [
        CatalogEntry(
            row, f"toy/{row}", row % 3, 0, float(row), f"file-{row}", b"png", f"text-{row}", {"c": f"cell-{row}"}
        )
        for row in range(20)
    ]
    write_catalog(directory / "catalog.sqlite", entries)
    return Catalog.open(directory / "catalog.sqlite")


class FakeWorker:
    """Answers with the request's id; ``handle`` replaces that, ``hold`` keeps every answer back until it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[WorkerRequest, float]] = []
        self.deployments: list[Deployment] = []
        self.handle: Callable[[WorkerRequest], WorkerReply] = echo
        self.hold: asyncio.Event | None = None

    async def send(
        self, deployment: Deployment, request: WorkerRequest, timeout_s: float, held: Held | None = None
    ) -> WorkerReply:
        with closing(held or Held()):
            self.asked.append((request, timeout_s))
            self.deployments.append(deployment)
            if self.hold is not None:
                await self.hold.wait()
            return self.handle(request)

    async def verdict(self, deployment: Deployment, lane: Lane, timeout_s: float) -> ProponentError | None:
        try:
            await self.send(deployment, WorkerRequest(), timeout_s)
        except ProponentError as error:
            return error
        return None


def echo(request: WorkerRequest) -> WorkerReply:
    kind = request.WhichOneof("call") or ""
    prediction = pb.Prediction(class_id=1, label="b", probabilities=[0.25, 0.5, 0.25])
    asked: Any = getattr(request, kind)
    extra = {"request_id": asked.request_id} if kind in ("predict", "explain") else {}
    reply = WorkerReply()
    getattr(reply, kind).MergeFrom(type(getattr(reply, kind))(prediction=prediction, **extra))
    return reply


class Service:
    """The calls over fakes; everything in it is open to the tests."""

    def __init__(self, directory: Path, authenticator: Authenticator | None = None, **settings: Any) -> None:
        self.settings = Settings(store=directory, **settings)
        self.tombstones = Tombstones(directory / FORGOTTEN)
        self.model = ServedModel("toy", BundleHandle(directory, manifest(), catalog(directory), self.tombstones))
        self.model.set_error(None)
        self.model.settle()
        self.worker = FakeWorker()
        self.metrics = Metrics()
        self.models = {"toy": self.model}
        self.gate = gate_of(self.settings)
        self.calls = ExplanationCalls(
            self.models,
            self.worker,
            self.settings,
            self.metrics,
            authenticator or authenticator_of(self.settings),
            self.gate,
        )

    def close(self) -> None:
        self.model.close()
        if self.gate.audit_log is not None:
            self.gate.audit_log.close()


def broken(error: ProponentError) -> ServedModel:
    return ServedModel("broken", error)


def sealed_bundle(store: Store, note: str, model: str = "toy") -> Path:
    """A bundle of a model that is whole by its checksums, with a catalog and nothing else of use."""
    directory = store.directory(model) / f"draft-{note}"
    directory.mkdir(parents=True)
    catalog(directory).close()
    for name in set(FILES) - {CATALOG}:
        (directory / name).write_text(note)
    return seal(directory, replace(manifest(), model=model, created=note), store.bundles(model))


class _Management:
    """Has registered what it is told."""

    async def register(self, directory: str) -> None:
        pass


async def torchserve(directory: Path, inference: HttpClient) -> TorchServeHost:
    """TorchServe as a host, with two versions of the model ``toy`` in both lanes."""
    layout = Layout(directory / "private")
    layout.root.mkdir()
    layout.create()
    host = TorchServeHost(None, _Management(), inference, layout)  # type: ignore[arg-type]
    settings = Settings(store=directory, batch_delay_ms=0, prediction_batch_delay_ms=0)
    for version in ("1.0", "2.0"):
        for lane in Lane:
            await host.register(WorkerGroup("toy", version, lane, directory, None, settings))
    return host
