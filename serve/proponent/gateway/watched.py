"""What the supervisor remembers of a deployment's workers between two looks at them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from proponent.gateway.archive import Archive
from proponent.gateway.deployment import Deployment
from proponent.gateway.management import WorkerStatus

_SLOW_S = 20.0


class Watched:
    """A registered deployment.

    Attributes:
        probed: Process ids of the ready workers when the last probe said something certain.
        waiting_since: Monotonic time since when no worker is ready.
    """

    def __init__(self, deployment: Deployment, archive: Archive) -> None:
        self.deployment = deployment
        self.archive = archive
        self.reset()

    def reset(self) -> None:
        """Forgets the workers of a TorchServe that is gone."""
        self.probed: frozenset[int] = frozenset()
        self._seen: frozenset[int] = frozenset()
        self.start_clock()

    def start_clock(self) -> None:
        """Starts to count how long a worker is missing."""
        self.waiting_since = time.monotonic()
        self._next_report = self.waiting_since + _SLOW_S

    @property
    def waited_s(self) -> float:
        """Seconds without a ready worker."""
        return time.monotonic() - self.waiting_since

    def is_slow(self) -> bool:
        """True every ``_SLOW_S`` seconds of waiting."""
        if time.monotonic() < self._next_report:
            return False
        self._next_report += _SLOW_S
        return True

    def replaced(self, workers: Sequence[WorkerStatus]) -> bool:
        """Whether, of workers that are not ready, one stands in for one that was seen before: that one died."""
        started = frozenset(worker.pid for worker in workers if worker.pid > 0)
        died = bool(self._seen and started - self._seen)
        self._seen |= started
        return died


def ready_pids(workers: Sequence[WorkerStatus]) -> frozenset[int]:
    """Process ids of the workers that have loaded the model."""
    return frozenset(worker.pid for worker in workers if worker.ready)
