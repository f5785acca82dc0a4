"""What the blocking client and the one for asyncio have in common: everything but the waiting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from proponent.client.connection import Connection, Tls
from proponent.client.retry import BACKOFF, Retry, Tries
from proponent.options import ExampleQuery, ExplainOptions, Target
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

DEFAULTS = ExplainOptions()
PREDICTED = Target()
EVERYTHING = ExampleQuery()


class ServiceClient(ABC):
    """A connection to one service, the model asked about, and how long and how often a call is tried."""

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        *,
        model: str = "",
        token: str | None = None,
        tls: Tls | None = None,
        timeout_s: float | None = 30.0,
        retry: Retry = BACKOFF,
    ) -> None:
        self.model = model
        connection = Connection(address, token, tls)
        self._metadata = connection.metadata
        self._channel = self._open(connection)
        self._stub = ExplanationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s
        self._retry = retry

    @abstractmethod
    def _open(self, connection: Connection) -> Any:
        """A channel of the kind that this client waits on."""

    def _named(self, model: str | None) -> str:
        return self.model if model is None else model

    def _tries(self) -> Tries:
        return Tries(self._retry, self._timeout_s)
