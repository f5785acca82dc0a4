"""What the supervisor knows of a deployment's workers: since when they are missing, and what they last said."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.deployment import Deployment
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.hosting.host import WorkerGroup, WorkerStatus
from proponent.gateway.lane import Lane

EVERY_S = 5.0
"""Between two questions to workers that answer."""
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 10.0
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
        """Restarts the count."""
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

    def died_while_starting(self, workers: Sequence[WorkerStatus]) -> bool:
        """Whether, of workers that are not ready, one stands in for one that was seen before: that one died."""
        started = frozenset(worker.pid for worker in workers if worker.pid > 0) - self._gone
        died = bool(self._seen and started - self._seen)
        self._seen |= started
        return died


class Prober:
    """What the workers of one deployment last said of themselves; one question at a time is under way.

    A question that got no answer says nothing of the bundle: it is asked again, at first at once and then ever more
    rarely, until there is an answer.

    Args:
        model: Its name.
        verdict: The worker's verdict, None where all is well; raises UnavailableError where there was none.
        clock: Monotonic seconds.

    Attributes:
        error: Why the workers cannot be sent calls; None when they can.
        certain: Whether that is what a worker said.
    """

    def __init__(
        self,
        model: str,
        verdict: Callable[[], Awaitable[ProponentError | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._verdict = verdict
        self._clock = clock
        self._probing: asyncio.Task[None] | None = None
        self.reset()

    def reset(self) -> None:
        """Of new workers nothing is known."""
        self.stop()
        self.error: ProponentError | None = UnavailableError(
            f"the worker of model {self._model!r} is asked for its state", reason="WORKER_STARTING"
        )
        self.certain = False
        self.probe_soon()

    def mark_healthy(self) -> None:
        """The workers are known to be well."""
        self.error, self.certain = None, True
        self._due = self._clock() + EVERY_S

    def probe_soon(self) -> None:
        """Asks at the next opportunity."""
        self._due, self._delay = self._clock(), _FIRST_DELAY_S

    def probe_if_due(self) -> None:
        """Asks if it is time to and no question is under way; to be called often."""
        if (self._probing is None or self._probing.done()) and self._clock() >= self._due:
            self._probing = asyncio.create_task(self._probe())

    def stop(self) -> None:
        """Drops the question under way."""
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    async def _probe(self) -> None:
        try:
            self.error, self.certain = await self._verdict(), True
            self._due, self._delay = self._clock() + EVERY_S, _FIRST_DELAY_S
        except Exception as error:
            self.error, self.certain = as_proponent_error(error), False
            self._due = self._clock() + self._delay
            self._delay = min(2 * self._delay, _LONGEST_DELAY_S)


class WorkerState:
    """A registered lane of a deployment.

    Attributes:
        prober: What its workers say of themselves.
        clock: How long they are missing.
        pids: Process ids of the workers that were ready at the last look.
        registered: Whether the host was told of it.
    """

    def __init__(self, deployment: Deployment, group: WorkerGroup, prober: Prober) -> None:
        self.deployment = deployment
        self.group = group
        self.prober = prober
        self.reset()

    @property
    def worker(self) -> str:
        """What its workers are called."""
        kind = "prediction worker" if self.group.lane is Lane.PREDICTIONS else "worker"
        return f"{kind} of model {self.deployment.model!r}"

    def reset(self) -> None:
        """Forgets the workers, which are gone with their host."""
        self.registered = False
        self._due, self._delay = 0.0, _FIRST_DELAY_S
        self.clock = StartClock()
        self.pids: frozenset[int] = frozenset()
        self.prober.reset()

    @property
    def is_due(self) -> bool:
        """Whether it is time to tell the host of it."""
        return time.monotonic() >= self._due

    def register_later(self) -> None:
        """Notes that the host refused it; it is told again, ever more rarely."""
        delay = min(2 * self._delay, _LONGEST_DELAY_S)
        self.reset()
        self._due, self._delay = time.monotonic() + delay, delay

    def note_ready(self, ready: frozenset[int]) -> None:
        """Notes which workers are ready; new ones are asked soon."""
        if ready != self.pids:
            self.clock.restart()
            self.prober.stop()  # a question may have been lost with a worker
            self.prober.probe_soon()
        self.pids = ready

    def note_missing(self) -> bool:
        """Notes that no worker is ready; whether one was so at the last look."""
        died = bool(self.pids)
        if died:
            self.clock = StartClock(self.pids)
        self.pids = frozenset()
        self.prober.reset()
        return died


def ready_pids(workers: Sequence[WorkerStatus]) -> frozenset[int]:
    """Process ids of the workers that have loaded the model."""
    return frozenset(worker.pid for worker in workers if worker.ready)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM; 0 where the system does not tell or it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
