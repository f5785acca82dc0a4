"""The command ``proponent reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.exit_codes import INTERRUPTED, exits
from proponent.cli.options import CHECK, QuietOption


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=CHECK, epilog=exits(3, 5, 6, INTERRUPTED))(reproduce)


def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(help="Experiments, or 'all'; 'list' shows them.", metavar="EXPERIMENT...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory of the results; a killed run goes on there.")] = Path(
        "runs/study"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Small data, same code: minutes instead of hours.")] = False,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of the data sets; default: PROPONENT_DATA.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Run the paper's experiments again, with what it planned; each writes a table, figures and a README.

    Results are seeded. Finished experiments, and finished steps of a killed one, are kept in --out and not run again
    unless their code has changed since.

    Example: `proponent reproduce table1 --out runs/study --quick`
    """
    from proponent.rebuild.progress import StageProgress
    from proponent.study.registry import EXPERIMENTS, chosen
    from proponent.study.reproduction import reproduce as run

    if "list" in experiments:
        typer.echo("\n".join(f"{name:14} {each.part}: {each.title}" for name, each in EXPERIMENTS.items()))
        return
    wanted = chosen(experiments)
    with StageProgress(quiet=quiet) as progress:
        run(wanted, out, quick=quick, data_root=data_root, progress=progress)
    typer.echo("\n".join(f"{out / each.name / 'README.md'}" for each in wanted))
