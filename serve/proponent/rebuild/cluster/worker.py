"""A process of the cluster: it holds model and data, computes one chunk at a time and saves it among the stages."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from torch import Tensor

from proponent.allocator import keep_freed_memory
from proponent.errors import ProponentError, SpecError, StorageError
from proponent.rebuild.cluster.site import Site
from proponent.rebuild.context import Compute, RebuildContext, Task
from proponent.single_precision import single_precision


class Worker:
    """What runs as an actor.

    Args:
        threads: Of each computation: another number of them rounds another way.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._opened: tuple[str, Site, RebuildContext] | None = None
        self._stage: tuple[bytes, Compute] | None = None

    def where(self) -> str:
        """Address and id of the node; answered once this process is up."""
        return named(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())

    def compute(self, site: Sequence[Any], task: Task, name: str, positions: Sequence[int], locate: bool) -> None:
        """Computes and saves a chunk that is not there yet.

        Args:
            site: The reference of a `Site`; it is fetched once.
            task: What is computed.
            name: Of the chunk.
            positions: Its items.
            locate: Whether to look for the item at fault where the computation fails.

        Raises:
            ProponentError: It fails; the message names the chunk, the node and the item.
        """
        with single_precision():
            try:
                context, compute = self._prepared(site[0], task)
                if not context.workspace.has(name):
                    found = computed(context, task, compute, positions, locate)
                    with _failing_to_save(context.workspace.location):
                        context.workspace.save(name, found)
            except Exception as error:  # the user's code may raise anything
                raise _named(error, f"chunk {name}, node {self.where()}") from error

    def survives(self, site: Sequence[Any], task: Task, positions: Sequence[int]) -> bool:
        """True, if this process lives through computing some positions."""
        with single_precision():
            return not _raises(self._prepared(site[0], task)[1], positions)

    def train(self, task: Callable[..., None], *arguments: object) -> None:
        """Runs a training, which writes its own file, in one thread as on any machine."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            task(*arguments)
        except Exception as error:  # the user's code may raise anything
            raise _named(error, f"node {self.where()}") from error
        finally:
            torch.set_num_threads(threads)

    def _prepared(self, reference: Any, task: Task) -> tuple[RebuildContext, Compute]:
        if self._opened is None or self._opened[0] != reference.hex():
            self._open(reference)
        assert self._opened is not None
        context, sent = self._opened[2], pickle.dumps(task)
        if self._stage is None or self._stage[0] != sent:
            self._stage = None
            self._stage = sent, task.prepare(context)
        return context, self._stage[1]

    def _open(self, reference: Any) -> None:
        """Opens a site; model and data are opened again only where they are others, and never two models at once."""
        site = ray.get(reference)
        before = self._opened[2] if self._opened is not None and site.shares(self._opened[1]) else None
        self._opened = self._stage = None
        self._opened = reference.hex(), site, site.open(before)


def named(address: str, node_id: str) -> str:
    """A node as it is shown: several may have one address."""
    return f"{address} ({node_id[:6]})"


def first_failing(fails: Callable[[Sequence[int]], bool], positions: Sequence[int]) -> int | None:
    """The position that fails alone, found by halving what fails together; None where none does."""
    while len(positions) > 1:
        middle = len(positions) // 2
        positions = positions[:middle] if fails(positions[:middle]) else positions[middle:]
    return positions[0] if fails(positions) else None


def computed(
    context: RebuildContext, task: Task, compute: Compute, positions: Sequence[int], locate: bool
) -> Mapping[str, Tensor]:
    """A chunk; what fails alone is named in the error where it is to be located."""
    try:
        return compute(positions)
    except Exception as error:  # the user's code may raise anything
        found = first_failing(lambda some: _raises(compute, some), positions) if locate else None
        if found is None:
            raise
        raise _named(error, task.called(context, found)) from error


def _raises(compute: Compute, positions: Sequence[int]) -> bool:
    try:
        compute(positions)
    except Exception:  # the user's code may raise anything
        return True
    return False


@contextmanager
def _failing_to_save(location: str) -> Iterator[None]:
    """Says of what fails in a block that it is the store of stages, as this node sees it."""
    try:
        yield
    except StorageError:  # says so already
        raise
    except Exception as error:  # of any library that writes
        raise StorageError(f"cannot write to {location}: {error}", field="shards") from error


def _named(error: Exception, what: str) -> ProponentError:
    """The error with where it came from."""
    if isinstance(error, ProponentError):
        return type(error)(f"{error.message} ({what})", field=error.field, reason=error.reason)
    return SpecError(f"{type(error).__name__}: {error} ({what})", field="dataset")
