"""What TorchServe loads for a model: a no-archive directory with the handler and the path of the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

import proponent
from proponent.errors import NotFoundError
from proponent.gateway.settings import Settings

HANDLER = "influence_handler.py"


@dataclass(frozen=True)
class WorkerOptions:
    """How TorchServe runs the workers of a model."""

    workers: int
    batch_size: int
    batch_delay_ms: int
    response_timeout_s: int
    start_timeout_s: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those that an operator's settings say."""
        return cls(
            workers=settings.workers,
            batch_size=settings.batch_size,
            batch_delay_ms=settings.batch_delay_ms,
            response_timeout_s=settings.worker_timeout_s,
            start_timeout_s=int(settings.start_timeout_s),
        )


@dataclass(frozen=True)
class Archive:
    """A directory inside TorchServe's model store."""

    model: str
    version: str
    path: Path


def handler_source() -> Path:
    """The handler file of the installed package, or of the checkout that this package belongs to.

    Raises:
        NotFoundError: There is none in either place.
    """
    package = Path(proponent.__file__).parent
    places = (package / "handlers" / HANDLER, package.parents[1] / "handlers" / HANDLER)
    for place in places:
        if place.is_file():
            return place
    raise NotFoundError(f"handler not found: looked for {' and '.join(map(str, places))}", field="handler")


def write_archive(
    model_store: Path,
    model: str,
    version: str,
    bundle: Path,
    weights: Path | None,
    options: WorkerOptions,
    handler: Path | None = None,
) -> Archive:
    """Writes the directory of one version of a model; ``weights`` None means the bundle's own."""
    path = model_store / f"{model}-{version}"
    (path / "MAR-INF").mkdir(parents=True)
    manifest = _manifest(model, version)
    (path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")
    config = {**_worker_config(options), "proponent": _bundle_config(bundle, weights)}
    (path / "model-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copyfile(handler or handler_source(), path / HANDLER)
    return Archive(model, version, path)


def remove_archive(archive: Archive) -> None:
    """Removes the directory of a version that is registered no more."""
    shutil.rmtree(archive.path, ignore_errors=True)


def _manifest(model: str, version: str) -> dict[str, object]:
    return {
        "archiverVersion": "0.12.0",
        "runtime": "python",
        "model": {
            "modelName": model,
            "modelVersion": version,
            "handler": HANDLER,
            "configFile": "model-config.yaml",
        },
    }


def _worker_config(options: WorkerOptions) -> dict[str, object]:
    return {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.batch_delay_ms,
        "responseTimeout": options.response_timeout_s,
        "startupTimeout": options.start_timeout_s,
        "deviceType": "cpu",
    }


def _bundle_config(bundle: Path, weights: Path | None) -> dict[str, str | None]:
    return {
        "bundle": str(bundle.absolute()),
        "weights": None if weights is None else str(weights.absolute()),
    }
