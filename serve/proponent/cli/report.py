"""The command ``proponent report``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proponent.cli.exit_codes import DAMAGED, INTERRUPTED, exits
from proponent.cli.options import CHECK, DEFAULT_STORE, ModelOption, StoreOption, current_bundle
from proponent.errors import InvalidInputError
from proponent.index.bundle import read_manifest

if TYPE_CHECKING:
    from proponent.explainer import Explainer
    from proponent.reports.inputs import Input, Unreadable


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, 6, INTERRUPTED))(report)


def report(
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help="Folder whose images (texts: *.txt, rows: *.json) are explained.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Explain so many of the bundle's held-out samples instead.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Length of each list.")] = 5,
    highlight: Annotated[
        bool, typer.Option(help="Of texts: mark the words that carry the influence; takes seconds for each.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
) -> None:
    """Explain many inputs in one HTML file that needs no service, no script and no network.

    It shows what the explorer shows: each prediction with its proponents and opponents by four methods, what would
    change without them, the training examples, and the model with what its audit measured. An input that cannot be
    read is named there and on standard error; the others are explained.

    Example: `proponent report --inputs digits/ --out report.html --store model_store`
    """
    from proponent.reports.report import write_report
    from proponent.reports.writing import check_out

    check_out(out)
    bundle = current_bundle(store, model)
    source = _source(bundle, inputs, samples)
    count = write_report(
        bundle, out, source, top_k=top_k, warn=lambda one: _warn(f"{one.name}: {one.why}"), highlight=highlight
    )
    typer.echo(f"{out}: {count} inputs explained")


def _source(
    bundle: Path, folder: Path | None, count: int | None
) -> Callable[[Explainer], Iterator[Input | Unreadable]]:
    """What reads the inputs; raises an error for what cannot be read at all."""
    from proponent.reports.inputs import input_files, read_files, read_samples, require_samples

    if folder is not None and count is None:
        return partial(read_files, input_files(folder, read_manifest(bundle).signature.kind))
    if folder is not None or count is None:
        given = "neither" if folder is None else "both"
        raise InvalidInputError(f"{given} of --inputs and --samples given, expected one of them", field="inputs")
    kept = require_samples(bundle)
    if kept < count:
        _warn(f"the bundle keeps {kept} samples, {count} were asked for")
    return partial(read_samples, bundle, count)


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)
