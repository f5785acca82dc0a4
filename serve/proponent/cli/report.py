"""The command ``proponent report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.exit_codes import DAMAGED, INTERRUPTED, exits
from proponent.cli.options import CHECK, DEFAULT_STORE, ModelOption, StoreOption, current_bundle


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, 6, INTERRUPTED))(report)


def report(
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    inputs: Annotated[Path, typer.Option("--inputs", help="Folder whose PNG and JPEG files are explained.")],
    top_k: Annotated[int, typer.Option(min=1, help="Length of each list.")] = 5,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
) -> None:
    """Explain many inputs in one HTML file that needs no service, no script and no network.

    It shows what the explorer shows: each prediction with its proponents and opponents by four methods, what would
    change without them, the training examples, and the model with what its audit measured. An input that cannot be
    read is named there and on standard error; the others are explained.

    Example: `proponent report --inputs digits/ --out report.html --store model_store`
    """
    from proponent.reports.inputs import Unreadable, image_files, read_images
    from proponent.reports.report import write_report
    from proponent.reports.writing import check_out

    check_out(out)
    files = image_files(inputs)

    def warn(one: Unreadable) -> None:
        typer.echo(f"warning: {one.name}: {one.why}", err=True)

    bundle = current_bundle(store, model)
    count = write_report(bundle, out, lambda explainer: read_images(files, explainer), top_k=top_k, warn=warn)
    typer.echo(f"{out}: {count} inputs explained")
