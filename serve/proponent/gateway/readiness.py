"""Whether the gateway may be sent traffic.

It is ready once every model has been found able to answer or unable, and then as long as one is able: a damaged
bundle takes down its own model alone, and a new replica takes no traffic before all its models have been tried.
"""

from __future__ import annotations

from collections.abc import Mapping

from proponent.errors import NotFoundError, ProponentError, UnavailableError
from proponent.gateway.served_model import ServedModel


class Readiness:
    """Of the gateway as a whole, and of each model."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self.draining = False

    def error(self) -> ProponentError | None:
        """Why the gateway is not ready; None when it is."""
        if self.draining:
            return _stopping()
        models = self._models.values()
        able = any(model.error is None for model in models) and not any(model.starting for model in models)
        waiting = sorted((model for model in models if model.error is not None), key=lambda model: not model.starting)
        return None if able else next((model.error for model in waiting), None)

    def error_of(self, name: str) -> ProponentError | None:
        """Why a model cannot answer; None when it can.

        Raises:
            NotFoundError: There is no such model.
        """
        if name not in self._models:
            raise NotFoundError(f"model {name!r} is unknown", field="model", reason="MODEL_UNKNOWN")
        return _stopping() if self.draining else self._models[name].error


def _stopping() -> ProponentError:
    return UnavailableError("the server is stopping", reason="DRAINING")
