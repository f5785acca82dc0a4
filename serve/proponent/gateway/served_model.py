"""A model that the gateway serves: its bundle's manifest and catalogue, and whether a worker answers for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proponent.errors import CorruptBundleError, NotFoundError, ProponentError, SpecError, UnavailableError
from proponent.gateway.settings import Settings
from proponent.index.bundle import CATALOG, Manifest, read_manifest
from proponent.index.catalog import Catalog
from proponent.index.store import Store


@dataclass(frozen=True)
class Contents:
    """What this process reads of a bundle."""

    path: Path
    manifest: Manifest
    catalog: Catalog


class ServedModel:
    """One model. ``error`` says why it cannot answer now; None means that a healthy worker is ready.

    Args:
        contents: The bundle, or why it cannot be read (then no worker is ever started for it).
        weights: Deployed weights instead of the bundle's copy.
    """

    def __init__(self, name: str, contents: Contents | ProponentError, weights: Path | None = None) -> None:
        self.name = name
        self.weights = weights
        self._contents = contents
        starting = UnavailableError(f"model {name!r} is starting", reason="WORKER_STARTING")
        self.error: ProponentError | None = contents if isinstance(contents, ProponentError) else starting

    @property
    def readable(self) -> bool:
        """Whether its bundle could be read."""
        return isinstance(self._contents, Contents)

    @property
    def contents(self) -> Contents:
        """The bundle.

        Raises:
            ProponentError: Why it could not be read.
        """
        if isinstance(self._contents, ProponentError):
            raise self._contents
        return self._contents

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.contents.manifest

    def require_ready(self) -> None:
        """Raises the reason when no healthy worker is ready."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Closes the catalogue."""
        if isinstance(self._contents, Contents):
            self._contents.catalog.close()


def open_models(settings: Settings) -> dict[str, ServedModel]:
    """The models to serve, by name; a bundle that cannot be read makes a model that answers with that error.

    Raises:
        NotFoundError: No store, no model in it, or one asked for is not there; no file of deployed weights.
        SpecError: Deployed weights were given for more than one model.
    """
    store = Store(settings.store)
    names = _names(store, settings)
    if settings.weights is not None and len(names) > 1:
        raise SpecError(
            f"weights belong to one model, but {len(names)} are served: {', '.join(names)}", field="weights"
        )
    if settings.weights is not None and not settings.weights.is_file():
        raise NotFoundError(f"weights not found: {settings.weights}", field="weights")
    return {name: ServedModel(name, _contents(store, name), settings.weights) for name in names}


def _names(store: Store, settings: Settings) -> list[str]:
    known = store.models()
    missing = [name for name in settings.models if name not in known]
    if missing:
        raise NotFoundError(
            f"no bundle for model {missing[0]!r} in {store.root} (models: {', '.join(known) or 'none'})",
            field="models",
        )
    if not known:
        raise NotFoundError(f"no model in {store.root} (make one with: proponent rebuild)", field="store")
    return list(settings.models) or known


def _contents(store: Store, name: str) -> Contents | ProponentError:
    try:
        path = store.current(name)
        return Contents(path, read_manifest(path), Catalog.open(path / CATALOG))
    except CorruptBundleError as error:
        return error
