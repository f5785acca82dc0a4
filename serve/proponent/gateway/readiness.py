"""Whether the whole gateway may be sent traffic."""

from __future__ import annotations

from collections.abc import Mapping

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.served_model import ServedModel


class Readiness:
    """Ready when every model has a healthy worker and the gateway is not stopping."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self.draining = False

    def error(self) -> ProponentError | None:
        """Why the gateway is not ready; None when it is."""
        if self.draining:
            return UnavailableError("the server is stopping", reason="DRAINING")
        return next((model.error for model in self._models.values() if model.error is not None), None)
