"""Whether the gateway may be sent traffic.

It is ready once every model has been found able to answer or unable, and then as long as one is able: a damaged
bundle takes down its own model alone, and a new replica takes no traffic before all its models have been tried.
"""

from __future__ import annotations

from collections.abc import Mapping

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.served_model import ServedModel


class Readiness:
    """Of the whole gateway; each model's own is its ``error``."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self.draining = False

    def error(self) -> ProponentError | None:
        """Why the gateway is not ready; None when it is."""
        if self.draining:
            return UnavailableError("the server is stopping", reason="DRAINING")
        models = self._models.values()
        able = any(model.error is None for model in models) and not any(model.starting for model in models)
        waiting = sorted((model for model in models if model.error is not None), key=lambda model: not model.starting)
        return None if able else next((model.error for model in waiting), None)
