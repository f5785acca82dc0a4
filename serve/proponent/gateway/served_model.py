"""A model that the gateway serves: the deployment that takes its requests, and whether a worker answers for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from proponent.errors import (
    CorruptBundleError,
    MismatchError,
    NotFoundError,
    ProponentError,
    SpecError,
    UnavailableError,
    as_state,
)
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings
from proponent.index.storage import unreadable
from proponent.index.store import Store, check_model_name

_OF_THE_BUNDLE = (CorruptBundleError, MismatchError)


class ServedModel:
    """One model, and for each of its lanes why it cannot answer now; None means that a healthy worker is ready.

    Args:
        bundle: The bundle, or why it cannot be read (then no worker is started until it can, or another is
            published).
        weights: Deployed weights instead of the bundle's copy.
        lanes: The queues that it is served by.
        versions: How many versions the model has had when it was served before.

    Attributes:
        versions: How many it has had by now.
    """

    def __init__(
        self,
        name: str,
        bundle: BundleHandle | ProponentError,
        weights: Path | None = None,
        lanes: Sequence[Lane] = tuple(Lane),
        versions: int = 0,
    ) -> None:
        self.name = name
        self.weights = weights
        self.lanes = tuple(lanes)
        self.versions = versions
        starting = UnavailableError(f"model {name!r} is starting", reason="WORKER_STARTING")
        self._errors: dict[Lane, ProponentError | None] = {}
        self.set_error(bundle if isinstance(bundle, ProponentError) else starting)
        self._unknown = set() if isinstance(bundle, ProponentError) else set(lanes)
        self._deployment = bundle if isinstance(bundle, ProponentError) else self.prepare(bundle)

    @property
    def error(self) -> ProponentError | None:
        """Why it cannot answer every call now; None when it can."""
        return self._of_the_bundle or next((error for error in self._errors.values() if error is not None), None)

    @property
    def starting(self) -> bool:
        """True until it is known for the first time of every lane whether it can answer."""
        return bool(self._unknown)

    def error_of(self, lane: Lane) -> ProponentError | None:
        """Why the calls of a lane cannot be answered now; None when they can.

        A lane whose workers are gone takes no other with it; what is wrong with the bundle concerns all.
        """
        return self._of_the_bundle or self.own_error(lane)

    @property
    def _of_the_bundle(self) -> ProponentError | None:
        return next((error for error in self._errors.values() if isinstance(error, _OF_THE_BUNDLE)), None)

    def own_error(self, lane: Lane) -> ProponentError | None:
        """What is known of a lane's own workers."""
        return self._errors[lane if lane in self._errors else Lane.EXPLANATIONS]

    def set_error(self, error: ProponentError | None, lane: Lane | None = None) -> None:
        """Notes why a lane, or none of them, can answer."""
        self._errors |= dict.fromkeys(self.lanes if lane is None else (lane,), error)

    def settle(self, lane: Lane | None = None) -> None:
        """Notes that it is known of a lane, or of all, whether it can answer."""
        self._unknown -= set(self.lanes if lane is None else (lane,))

    @property
    def readable(self) -> bool:
        """Whether its bundle could be read."""
        return isinstance(self._deployment, Deployment)

    @property
    def deployment(self) -> Deployment:
        """Where requests go now.

        Raises:
            ProponentError: Why its bundle could not be read.
        """
        if isinstance(self._deployment, ProponentError):
            raise self._deployment.with_traceback(None)
        return self._deployment

    def prepare(self, bundle: BundleHandle) -> Deployment:
        """A deployment under a version that this model never had."""
        self.versions += 1
        return Deployment(self.name, f"{self.versions}.0", bundle, self.lanes)

    def serves(self, digest: str) -> bool:
        """Whether healthy workers answer with this bundle now."""
        return self.error is None and self.deployment.manifest.digest == digest

    def switch(self, deployment: Deployment) -> None:
        """Sends requests to another deployment from now on; those in flight stay where they are."""
        self._deployment = deployment

    def require_ready(self, lane: Lane) -> None:
        """Raises the reason when no healthy worker of a lane is ready."""
        error = self.error_of(lane)
        if error is not None:
            # Each raise would add to the traceback of the one error that all calls get.
            raise error.with_traceback(None)

    def close(self) -> None:
        """Closes the catalog."""
        if isinstance(self._deployment, Deployment):
            self._deployment.close()


class Readiness:
    """Whether the gateway may be sent traffic, as a whole and for each model.

    It is ready once every model has been found able to answer or unable, and then as long as one is able: a damaged
    bundle takes down its own model alone, and a new replica takes no traffic before all its models have been tried.
    A model that comes later takes no readiness from the others.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self._tried = False
        self.draining = False

    def error(self) -> ProponentError | None:
        """Why the gateway is not ready; None when it is."""
        if self.draining:
            return stopping_error()
        models = self._models.values()
        self._tried = self._tried or (bool(models) and not any(model.starting for model in models))
        if self._tried and any(model.error is None for model in models):
            return None
        waiting = sorted((model for model in models if model.error is not None), key=lambda model: not model.starting)
        return next((model.error for model in waiting), None) or _no_model()

    def error_of_all(self) -> ProponentError | None:
        """Why not every model can answer; None when all can."""
        if self.draining:
            return stopping_error()
        return next((model.error for model in self._models.values() if model.error is not None), None)

    def error_of(self, name: str) -> ProponentError | None:
        """Why a model cannot answer; None when it can.

        Raises:
            NotFoundError: There is no such model.
        """
        if name not in self._models:
            raise NotFoundError(f"model {name!r} is unknown", field="model", reason="MODEL_UNKNOWN")
        return stopping_error() if self.draining else self._models[name].error


def stopping_error() -> ProponentError:
    """What callers are told who come too late."""
    return UnavailableError("the server is stopping", reason="DRAINING")


def _no_model() -> ProponentError:
    return UnavailableError("no model is served yet", reason="NO_MODEL")


def open_models(settings: Settings) -> dict[str, ServedModel]:
    """The models to serve, by name; a bundle that cannot be read makes a model that answers with that error.

    Raises:
        NotFoundError: No store, or none of the models in it, unless it is watched; no file of deployed weights.
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
    return {name: _opened(store, name, settings.of(name)) for name in names}


def _opened(store: Store, name: str, settings: Settings) -> ServedModel:
    return ServedModel(name, _open_current(store, name), settings.weights, settings.lanes)


def _names(store: Store, settings: Settings) -> list[str]:
    """The models to serve; one that was asked for and is not there says so, beside others that are."""
    known = store.models()
    if settings.watch:
        return [name for name in known if not settings.models or name in settings.models]
    missing = [name for name in settings.models if name not in known]
    if missing and len(missing) == len(settings.models):
        raise NotFoundError(
            f"no bundle for model {missing[0]!r} in {store.root} (models: {', '.join(known) or 'none'})",
            field="models",
        )
    if not known:
        raise NotFoundError(f"no model in {store.root} (make one with: proponent rebuild)", field="store")
    return list(settings.models) or known


def _open_current(store: Store, name: str) -> BundleHandle | ProponentError:
    try:
        check_model_name(name)
        return BundleHandle.open(store.current(name))
    except (ProponentError, OSError) as error:
        return problem_of(error)


def problem_of(error: ProponentError | OSError) -> ProponentError:
    """What callers are told of a model whose bundle could not be opened."""
    return unreadable(error) if isinstance(error, OSError) else as_state(error)
