"""Hands the chunks of every stage to the workers of a cluster as they become free."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
import torch

from proponent.cluster_connection import connect
from proponent.errors import ProponentError, UnavailableError
from proponent.rebuild.cluster.pool import Done, LostError, Pool
from proponent.rebuild.cluster.site import Site
from proponent.rebuild.cluster.worker import first_failing
from proponent.rebuild.context import RebuildContext, Task
from proponent.rebuild.workspace import Workspace

STORE_BYTES = 256 << 20
ATTEMPTS = 3
"""Failures of a chunk before the rebuild fails, on other nodes if there are any: one may be broken."""


@contextmanager
def connected(address: str, workers: int = 0, gpus: float = 0.0) -> Iterator[RayExecutor]:
    """An executor on the cluster at an address; its workers end with the block.

    Args:
        address: Host and port of a cluster's head, ``auto`` for the cluster that this machine belongs to, or
            ``local`` for one of this machine alone, which ends with the block.
        workers: How many; 0 for as many as the cluster has room for at the time.
        gpus: Of each; without any a worker takes as many processors as this process has threads.

    Raises:
        UnavailableError: There is no cluster at the address, or it is of another version.
    """
    # Results lie in files: what a cluster of its own keeps in memory is what workers need to know.
    alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    options = alone if address == "local" else {}
    connect(address, **options)
    pool = Pool(workers, gpus)
    try:
        yield RayExecutor(pool, "cuda" if gpus else "cpu")
    finally:
        pool.close()
        ray.shutdown()


class RayExecutor:
    """An `Executor` whose chunks are computed by a pool of workers, on devices of one kind."""

    def __init__(self, pool: Pool, device: str) -> None:
        self._pool, self._device = pool, device
        self._sites: dict[tuple[Workspace, str], Any] = {}
        self._homes: dict[tuple[int, ...], Any] = {}

    def device(self, own: torch.device) -> torch.device:
        """See `Executor`."""
        return torch.device(self._device)

    def run(
        self, context: RebuildContext, stage: str, task: Task, chunks: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        """See `Executor`; a chunk goes to who computed an earlier stage's on the same items, and keeps what it needs.

        Raises:
            ProponentError: A chunk fails again and again; the message names the item at fault.
            UnavailableError: Workers die of a chunk, or there have been none for a while.
        """
        site = self._site(context)
        keys = {name: tuple(items) for name, items in chunks.items()}

        def call(name: str, is_last: bool) -> tuple[Any, ...]:
            return "compute", [site], task, name, chunks[name], is_last

        with ExitStack() as stack:
            bars = _NodeBars(context, stack, sum(map(len, chunks.values())))
            for done in self._handed_out(
                chunks, call, is_even=task.is_even, home=lambda name: self._homes.get(keys[name])
            ):
                if done.error is not None:
                    raise self._fatal(done, context, site, task, chunks[done.job]) from done.error
                self._homes[keys[done.job]] = done.worker
                bars.advance(done.node, len(chunks[done.job]))
                yield done.job

    def train(self, task: Callable[..., None], arguments: Sequence[tuple[object, ...]], jobs: int) -> Iterator[None]:
        """See `Executor`; the cluster's workers, whatever ``jobs`` says."""
        tasks = {f"training {number}": some for number, some in enumerate(arguments)}

        for done in self._handed_out(tasks, lambda name, is_last: ("train", task, *tasks[name])):
            if isinstance(done.error, LostError):
                raise _died(done.job, done) from done.error
            if done.error is not None:
                raise done.error
            yield

    def _handed_out(
        self,
        names: Iterable[str],
        call: Callable[[str, bool], tuple[Any, ...]],
        *,
        is_even: bool = True,
        home: Callable[[str], Any] = lambda name: None,
    ) -> Iterator[Done]:
        """What ends well, in any order, and what has failed for the last time.

        Args:
            names: Of the jobs.
            call: Method and arguments of a job, and whether it is tried for the last time.
            is_even: Whether jobs take about as long as each other.
            home: The worker that would have least to do for a job, if any.
        """
        waiting, failed_on = deque(names), defaultdict[str, list[str]](list)
        again = deque[str]()
        self._pool.call_roll(is_even=is_even)

        def begin(name: str) -> bool:
            where = failed_on[name]
            return self._pool.submit(name, *call(name, len(where) + 1 == ATTEMPTS), avoid=where, rather=home(name))

        while waiting or again or self._pool.is_busy:
            again = deque(name for name in again if not (self._pool.has_free and begin(name)))
            while waiting and self._pool.has_free:
                begin(_taken(waiting, home, self._pool.is_free))
            for done in self._pool.wait():
                went_with_node = isinstance(done.error, LostError) and done.error.with_node
                if done.error is not None and not went_with_node:
                    failed_on[done.job].append(done.node)
                if done.error is None or len(failed_on[done.job]) == ATTEMPTS:
                    yield done
                else:
                    again.append(done.job)

    def _site(self, context: RebuildContext) -> Any:
        """What workers need of a rebuild, in the cluster's memory; another one in the same place has its own."""
        key = context.workspace, context.classifier.spec.model_dump_json()
        if key not in self._sites:
            self._sites[key] = ray.put(Site.of(context, self._device))
        return self._sites[key]

    def _fatal(
        self, done: Done, context: RebuildContext, site: Any, task: Task, positions: Sequence[int]
    ) -> ProponentError:
        if not isinstance(done.error, LostError):
            assert done.error is not None
            return done.error
        found = first_failing(lambda some: not self._survives(site, task, some), positions)
        chunk = f"chunk {done.job}"
        return _died(chunk if found is None else f"{task.called(context, found)} ({chunk})", done)

    def _survives(self, site: Any, task: Task, positions: Sequence[int]) -> bool:
        """Whether a worker lives through some positions; jobs that end meanwhile have saved what they computed."""
        while not self._pool.has_free:
            self._pool.wait()
        self._pool.submit("", "survives", [site], task, positions)
        while True:
            for done in self._pool.wait():
                if not done.job:
                    return done.error is None


def _taken(waiting: deque[str], home: Callable[[str], Any], is_free: Callable[[Any], bool]) -> str:
    """Takes out a job whose worker is free, or one that has none, or the first: its worker is busy with others."""
    at_home = (name for name in waiting if is_free(home(name)))
    homeless = (name for name in waiting if home(name) is None)
    chosen = next(at_home, None) or next(homeless, waiting[0])
    waiting.remove(chosen)
    return chosen


def _died(what: str, done: Done) -> UnavailableError:
    return UnavailableError(
        f"{ATTEMPTS} workers died of {what}: a crash, or too little memory? What is finished is kept. {done.error}",
        field="ray",
        reason="WORKERS_DIED",
    )


class _NodeBars:
    """How much of a stage each node has computed."""

    def __init__(self, context: RebuildContext, stack: ExitStack, total: int) -> None:
        self._progress, self._stack, self._total = context.progress, stack, total
        self._bars: dict[str, Any] = {}

    def advance(self, node: str, count: int) -> None:
        """Adds so many items to a node's bar."""
        if node not in self._bars:
            self._bars[node] = self._stack.enter_context(self._progress.task(f"  on {node}", self._total))
        self._bars[node](count)
