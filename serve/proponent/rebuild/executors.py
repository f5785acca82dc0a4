"""Who computes the chunks of a rebuild: this process, or a cluster."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext

from proponent.errors import SpecError
from proponent.rebuild.context import Executor, InProcess


def executor_at(ray: str | None, workers: int = 0, gpus: float = 0.0) -> AbstractContextManager[Executor]:
    """The executor on a Ray cluster, or without an address that of this process.

    Args:
        ray: See `proponent.rebuild.cluster.executor.connected`, as the other two.
        workers: How many.
        gpus: Of each worker.

    Raises:
        SpecError: Ray is not installed, or workers are asked for without a cluster.
        UnavailableError: There is no such cluster.
    """
    if ray is None:
        for flag, value in {"--workers": workers, "--gpus-per-worker": gpus}.items():
            if value:
                raise SpecError(f"{flag} has value {value:g}: it needs --ray, which names the cluster", field="ray")
        return nullcontext(InProcess())
    if importlib.util.find_spec("ray") is None:
        raise SpecError("--ray: Ray is not installed: pip install 'proponent[ray]'", field="ray")
    from proponent.rebuild.cluster.executor import connected

    return connected(ray, workers, gpus)
