"""What TorchServe loads for a model: a no-archive directory with the handler and the path of the bundle.

``scripts/package_model STORE MODEL OUT`` writes one for a TorchServe of your own, with OUT as its model store;
``proponent`` must be installed where its workers run, and the bundle must stay where it is. Such a TorchServe answers
whoever has its keys, thumbnails and sources of training examples included: callers' permissions are the gateway's.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

import proponent
from proponent.errors import NotFoundError
from proponent.gateway.effective_settings import load_settings
from proponent.gateway.hosting.worker_settings import worker_section
from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings
from proponent.index.lifecycle import check_bundle
from proponent.index.store import Store

HANDLER = "influence_handler.py"


@dataclass(frozen=True)
class Archive:
    """A directory inside TorchServe's model store; ``model`` is its name there."""

    model: str
    version: str
    path: Path
    lane: Lane = Lane.EXPLANATIONS


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
    settings: Settings,
    liveness: Path | None = None,
    lane: Lane = Lane.EXPLANATIONS,
) -> Archive:
    """Writes the directory of one version of a model's lane.

    ``weights`` None means the bundle's own, ``liveness`` None that no gateway watches the workers.
    """
    name = lane.served_as(model)
    path = archive_path(model_store, name, version)
    (path / "MAR-INF").mkdir(parents=True, exist_ok=True)
    manifest = _manifest(name, version)
    (path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")
    section = worker_section(settings, lane, bundle, weights, liveness)
    config = {**_worker_config(settings, lane), **_batching(settings, lane, liveness), "proponent": section}
    (path / "model-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copyfile(handler_source(), path / HANDLER)
    return Archive(name, version, path, lane)


def archive_path(model_store: Path, name: str, version: str) -> Path:
    """Where the directory of a version is; TorchServe refuses two dots in a row wherever they stand in a path."""
    return model_store / f"{name.replace('..', '.%2E')}-{version}"


def remove_archive(path: Path) -> None:
    """Removes the directory of a version that is registered no more."""
    shutil.rmtree(path, ignore_errors=True)


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


def _worker_config(settings: Settings, lane: Lane) -> dict[str, object]:
    workers = settings.workers_of(lane)
    return {
        "minWorkers": workers,
        "maxWorkers": workers,
        "responseTimeout": settings.worker_timeout,
        "startupTimeout": math.ceil(settings.start_timeout),
        "deviceType": "cpu",
    }


def _batching(settings: Settings, lane: Lane, liveness: Path | None) -> dict[str, object]:
    """How TorchServe makes batches: not at all where a gateway does, whose requests are whole ones."""
    if liveness is not None:
        return {"batchSize": 1}
    # TorchServe takes 0 for no value at all, and then waits its default of 100 ms.
    return {"batchSize": settings.batch_size, "maxBatchDelay": max(1, settings.batch_delay_of(lane))}


def package(store: Store, model: str, out: Path) -> Archive:
    """Writes the archive of a model's current bundle, with the digest's first digits as its version.

    Raises:
        NotFoundError: No such model.
        CorruptBundleError: The bundle is damaged.
    """
    bundle = store.current(model)
    check_bundle(bundle, model)
    return write_archive(out, model, bundle.name[:12], bundle, None, load_settings({}).settings)
