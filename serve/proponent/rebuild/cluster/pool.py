"""Workers of a cluster that come as there is room for them, and go as their nodes do."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from proponent.errors import InternalError, ProponentError, UnavailableError
from proponent.rebuild.cluster.worker import Worker, named

WAIT_S = 1.0
"""Between looks at whether nodes have come."""
PATIENCE_S = 600.0
"""Without any worker before a rebuild gives up; it can be resumed."""
ARRIVAL_S = 30.0
"""How long a worker that starts may be waited for where a job has failed on all other nodes."""
HANG_S, HANG_TIMES = 600.0, 20.0
"""Of a job that counts as hanging: it takes at least so long, and so many times as long as any that has ended."""


class LostError(Exception):
    """A worker died: of its job, unless it was ``with_node``."""

    def __init__(self, message: str, with_node: bool) -> None:
        super().__init__(message)
        self.with_node = with_node


@dataclass(frozen=True)
class Done:
    """A job that has ended at a worker of a node, well where there is no ``error``."""

    job: str
    node: str
    worker: Any
    error: ProponentError | LostError | None


@dataclass
class _Begun:
    """A job that is worked on, since a time; ``why`` its worker was ended."""

    worker: Any
    node: str
    job: str
    since: float
    why: str = ""


class Pool:
    """Actors of one kind.

    Args:
        workers: How many; 0 for as many as the cluster has room for at the time.
        gpus: Of each.
    """

    def __init__(self, workers: int = 0, gpus: float = 0.0) -> None:
        self._workers, self._gpus = workers, gpus
        self._threads = 1 if gpus else torch.get_num_threads()
        self._make = ray.remote(num_cpus=self._threads, num_gpus=gpus, scheduling_strategy="SPREAD")(Worker).remote
        self._starting: dict[Any, tuple[Any, float]] = {}
        self._free: list[tuple[Any, str]] = []
        self._busy: dict[Any, _Begun] = {}
        self._longest_s, self._is_even = 0.0, True
        self._seen = time.monotonic()
        self._why = ""

    def call_roll(self, *, is_even: bool = True) -> None:
        """Workers that were left alone for a while are free again when they have answered.

        Args:
            is_even: Whether the jobs to come take about as long as each other, so that one may count as hanging.
        """
        self._seen, self._longest_s, self._is_even = time.monotonic(), 0.0, is_even
        self._starting |= {worker.where.remote(): (worker, self._seen) for worker, _ in self._free}
        self._free.clear()

    @property
    def is_busy(self) -> bool:
        """Whether a job is being worked on."""
        return bool(self._busy)

    @property
    def has_free(self) -> bool:
        """Whether a job would be begun at once."""
        return bool(self._free)

    def is_free(self, worker: Any) -> bool:
        """Whether this worker would begin a job at once."""
        return any(free is worker for free, _ in self._free)

    def submit(self, job: str, method: str, *arguments: Any, avoid: Collection[str] = (), rather: Any = None) -> bool:
        """Lets a free worker begin a job; it is left waiting where only nodes to ``avoid`` are free and others work.

        Args:
            job: Its name.
            method: What is called of a worker.
            *arguments: Of the call.
            avoid: Nodes on which it has failed.
            rather: The worker that begins it if it is one of the free.

        Returns:
            Whether it has begun.
        """
        free = [number for number, (_, node) in enumerate(self._free) if node not in avoid]
        if not free and self._works_elsewhere(avoid):
            return False
        wanted = [number for number in free if self._free[number][0] is rather]
        worker, node = self._free.pop((wanted or free or [-1])[-1])
        self._busy[getattr(worker, method).remote(*arguments)] = _Begun(worker, node, job, time.monotonic())
        return True

    def _works_elsewhere(self, avoid: Collection[str]) -> bool:
        busy = any(begun.node not in avoid for begun in self._busy.values())
        return busy or any(time.monotonic() - since < ARRIVAL_S for _, since in self._starting.values())

    def wait(self) -> list[Done]:
        """Jobs that have ended, after a moment at most; workers that have come are free.

        Raises:
            UnavailableError: There has been no worker for a while.
        """
        self._grow()
        references = [*self._busy, *self._starting]
        if references:
            ended, _ = ray.wait(references, num_returns=1, timeout=WAIT_S)
        else:
            ended = []
            time.sleep(WAIT_S)
        done = [self._ended(reference) for reference in ended if reference in self._busy]
        for reference in ended:
            if reference in self._starting:
                self._arrived(reference)
        self._end_hanging()
        self._check_patience()
        return done

    def close(self) -> None:
        """Ends all workers."""
        idle = [worker for worker, _ in (*self._starting.values(), *self._free)]
        for worker in (*idle, *(begun.worker for begun in self._busy.values())):
            ray.kill(worker)

    def _grow(self) -> None:
        count = len(self._starting) + len(self._free) + len(self._busy)
        for _ in range(count, self._workers or self._room()):
            worker = self._make(self._threads)
            self._starting[worker.where.remote()] = worker, time.monotonic()

    def _room(self) -> int:
        """How many workers the nodes that there are hold."""
        found = 0
        for node in ray.nodes():
            if node["Alive"]:
                resources: dict[str, float] = node["Resources"]
                by_processors = int(resources.get("CPU", 0) // self._threads)
                by_gpus = int(resources.get("GPU", 0) // self._gpus) if self._gpus else by_processors
                found += min(by_processors, by_gpus)
        return found

    def _arrived(self, reference: Any) -> None:
        worker, _ = self._starting.pop(reference)
        try:
            self._free.append((worker, ray.get(reference)))
        except RayError as error:
            self._why = str(error)
            ray.kill(worker)

    def _ended(self, reference: Any) -> Done:
        begun = self._busy.pop(reference)
        error: ProponentError | LostError | None = None
        try:
            ray.get(reference)
        except RayTaskError as failure:
            cause = failure.cause
            error = cause if isinstance(cause, ProponentError) else InternalError(str(failure))
        except RayError as failure:
            error = LostError(begun.why or str(failure), with_node=not self._is_alive(begun.node))
            ray.kill(begun.worker)  # one that cannot be reached may live, and hold its processors
        if not isinstance(error, LostError):
            self._free.append((begun.worker, begun.node))
        if error is None:
            self._longest_s = max(self._longest_s, time.monotonic() - begun.since)
        return Done(begun.job, begun.node, begun.worker, error)

    def _end_hanging(self) -> None:
        """Ends workers that are at a job for too long, once it is known how long one takes; they are lost then."""
        limit = max(HANG_S, HANG_TIMES * self._longest_s) if self._is_even else math.inf
        for begun in self._busy.values():
            seconds = time.monotonic() - begun.since
            if self._longest_s and seconds > limit and not begun.why:
                begun.why = f"it had no end after {seconds:.0f} s, where others took {self._longest_s:.1f} s at most"
                ray.kill(begun.worker)

    def _is_alive(self, node: str) -> bool:
        return any(
            each["Alive"] and node == named(each["NodeManagerAddress"], each["NodeID"]) for each in ray.nodes()
        )

    def _check_patience(self) -> None:
        now = time.monotonic()
        if self._free or self._busy:
            self._seen = now
        elif now - self._seen > PATIENCE_S:
            wanted = f"{self._threads} CPUs" + (f" and {self._gpus:g} GPUs" if self._gpus else "")
            raise UnavailableError(
                f"no worker of {wanted} has come up for {PATIENCE_S:.0f} s on a cluster with "
                f"{_shown(ray.cluster_resources())}, of which {_shown(ray.available_resources())} are free; what is "
                f"finished is kept. {self._why}".strip(),
                field="ray",
                reason="NO_WORKERS",
            )


def _shown(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
