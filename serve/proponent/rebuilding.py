"""A rebuild as users run it: with damping chosen where the spec says auto, and with the quick audit.

It stands above `proponent.rebuild` and `proponent.audit`, as an audit reads what a rebuild wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proponent.audit.quick import quick_audit
from proponent.audit.tuning import Tuning, tune
from proponent.index.audit_file import AUDITS
from proponent.index.store import Store
from proponent.rebuild.bundle_writer import RebuildResult
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.spec import ModelSpec


def audited_rebuild(
    spec: ModelSpec, store: Store, options: RebuildOptions | None = None, *, subsets: int = 16, jobs: int = 1
) -> Path:
    """Rebuilds with the quick audit in the manifest; damping ``auto`` sweeps first (see ``tuning``)."""
    options = options or RebuildOptions()
    tuning = _tuned(spec, store, options, subsets, jobs) if spec.curvature.damping == "auto" else None

    def audit(result: RebuildResult) -> Mapping[str, object]:
        return quick_audit(result) | (tuning.metrics() if tuning else {})

    return rebuild(tuning.spec if tuning else spec, store, options, audit)


def _tuned(spec: ModelSpec, store: Store, options: RebuildOptions, subsets: int, jobs: int) -> Tuning:
    directory = store.directory(spec.name) / AUDITS
    with StageProgress(quiet=options.quiet) as progress:
        return tune(
            spec,
            directory,
            subsets=subsets,
            jobs=jobs,
            batch_size=options.batch_size,
            memory=options.memory,
            progress=progress,
            executor=options.executor,
            shards=f"{options.shards_of(spec)}/tuning/factors" if options.shards else "",
        )
