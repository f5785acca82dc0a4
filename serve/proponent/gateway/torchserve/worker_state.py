"""What the supervisor remembers of a deployment's workers between two looks at them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from proponent.gateway.deployment import Deployment
from proponent.gateway.torchserve.archive import Archive
from proponent.gateway.torchserve.management import WorkerStatus
from proponent.gateway.torchserve.prober import Prober

_SLOW_S = 20.0


class StartClock:
    """How long workers are missing, and whether one died while it started.

    Args:
        gone: Process ids of workers that were ready before: they did not die while they started.
    """

    def __init__(self, gone: frozenset[int] = frozenset()) -> None:
        self._gone = gone
        self._seen: frozenset[int] = frozenset()
        self.restart()

    def restart(self) -> None:
        """Starts to count anew."""
        self._since = time.monotonic()
        self._next_report = self._since + _SLOW_S

    @property
    def waited_s(self) -> float:
        """Seconds without a ready worker."""
        return time.monotonic() - self._since

    def is_slow(self) -> bool:
        """True every ``_SLOW_S`` seconds of waiting."""
        if time.monotonic() < self._next_report:
            return False
        self._next_report += _SLOW_S
        return True

    def replaced(self, workers: Sequence[WorkerStatus]) -> bool:
        """Whether, of workers that are not ready, one stands in for one that was seen before: that one died."""
        started = frozenset(worker.pid for worker in workers if worker.pid > 0) - self._gone
        died = bool(self._seen and started - self._seen)
        self._seen |= started
        return died


class Watched:
    """A registered deployment.

    Attributes:
        prober: What its workers say of themselves.
        clock: How long they are missing.
        pids: Process ids of the workers that were ready at the last look.
    """

    def __init__(self, deployment: Deployment, archive: Archive, prober: Prober) -> None:
        self.deployment = deployment
        self.archive = archive
        self.prober = prober
        self.reset()

    def reset(self) -> None:
        """Forgets the workers, which are gone with their TorchServe."""
        self.clock = StartClock()
        self.pids: frozenset[int] = frozenset()
        self.prober.forget()

    def found(self, ready: frozenset[int]) -> None:
        """Notes which workers are ready; new ones are asked soon."""
        if ready != self.pids:
            self.clock.restart()
            self.prober.hurry()
        self.pids = ready

    def missed(self) -> bool:
        """Notes that no worker is ready; whether one was so at the last look."""
        died = bool(self.pids)
        if died:
            self.clock = StartClock(self.pids)
        self.pids = frozenset()
        self.prober.forget()
        return died


def ready_pids(workers: Sequence[WorkerStatus]) -> frozenset[int]:
    """Process ids of the workers that have loaded the model."""
    return frozenset(worker.pid for worker in workers if worker.ready)
