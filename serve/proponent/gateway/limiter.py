"""Bounds the calls in flight, method by method, so that TorchServe's queue never fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from proponent.errors import OverloadedError
from proponent.gateway.metrics import Metrics


class Limiter:
    """Counts calls in flight; a call over its method's limit is refused at once."""

    def __init__(self, limits: Mapping[str, int], metrics: Metrics) -> None:
        self._limits = dict(limits)
        self._counts: Counter[str] = Counter()
        self._metrics = metrics

    @contextmanager
    def slot(self, method: str) -> Iterator[None]:
        """Holds one of the method's slots.

        Raises:
            OverloadedError: All are taken.
        """
        limit = self._limits[method]
        if self._counts[method] >= limit:
            raise OverloadedError(f"{limit} {method} calls are in flight, the most this server takes; try again")
        self._change(method, 1)
        try:
            yield
        finally:
            self._change(method, -1)

    def _change(self, method: str, by: int) -> None:
        self._counts[method] += by
        self._metrics.in_flight.labels(method).set(self._counts[method])
