"""The command line: all commands in the order of use, and errors as one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from proponent import __version__
from proponent.cli import audit, build, bundles, doctor, explain, health, lifecycle, report, reproduce, serve, token
from proponent.errors import ProponentError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Serve a PyTorch classifier with the training examples that argued for and against each prediction.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"proponent {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """What is asked of the program rather than of a command."""


for commands in (build, serve, token, explain, report, audit, reproduce, doctor, health, bundles, lifecycle):
    commands.register(app)


def main() -> None:
    """Runs the command line; errors meant for the user are one line on standard error and an exit code."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ProponentError as error:
        print(f"error: {error.message} [{error.reason}]", file=sys.stderr)
        sys.exit(error.exit_code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
