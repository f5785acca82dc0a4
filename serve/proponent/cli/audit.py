"""The command ``proponent audit``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from proponent.cli.exit_codes import DAMAGED, INTERRUPTED, exits
from proponent.cli.options import (
    CHECK,
    DEFAULT_STORE,
    GpusOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    QuietOption,
    RayOption,
    StoreOption,
    WorkersOption,
    open_store,
)


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, 6, INTERRUPTED))(audit)


def audit(
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries.")] = 100,
    lds: Annotated[int, typer.Option(min=0, help="Half-subsets to retrain on; 0 leaves it out.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings of each half-subset; of one no reliability is known.")
    ] = 2,
    leave_one_out: Annotated[int, typer.Option(min=0, help="Examples to remove one at a time (convex models).")] = 0,
    label_noise: Annotated[float, typer.Option(min=0, max=0.9, help="Share of labels to flip and to find.")] = 0.0,
    solver: Annotated[
        int, typer.Option(min=0, help="Queries to solve for by conjugate gradients; 0 leaves it out.")
    ] = 0,
    solver_damping: Annotated[float, typer.Option(min=0, help="Damping of that solve.")] = 0.0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that retrain.")] = 1,
    ray: RayOption = None,
    workers: WorkersOption = 0,
    gpus_per_worker: GpusOption = 0.0,
    html: HtmlOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how faithful the current bundle's explanations are; finished retrainings are kept and reused.

    The results are printed and kept in STORE/MODEL/audits/DIGEST.json, beside those of checks made before; --html
    draws all of them.

    Example: `proponent audit --store model_store --lds 50 --jobs 2 --html audit.html`
    """
    from proponent.audit.checks import AuditOptions, full_audit, without_points
    from proponent.audit.scoring import open_bundle
    from proponent.index.audit_file import audits_of, keep_audit
    from proponent.rebuild.executors import executor_at
    from proponent.rebuild.progress import StageProgress
    from proponent.reports.report import write_audit
    from proponent.reports.writing import check_out

    if html:
        check_out(html)
    opened, name = open_store(store, model)
    bundle = opened.current(name)
    directory = audits_of(bundle)
    checks = (queries, lds, seeds, leave_one_out, label_noise, solver, solver_damping)
    with executor_at(ray, workers, gpus_per_worker) as executor, StageProgress(quiet=quiet) as progress:
        metrics = full_audit(open_bundle(bundle), AuditOptions(directory, *checks, jobs, executor.train), progress)
    keep_audit(bundle, metrics)
    if html:
        write_audit(bundle, html)
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    for check, value in without_points(metrics).items():
        typer.echo(f"{check:20} {value}")
