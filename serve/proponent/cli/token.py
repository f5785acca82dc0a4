"""The command ``proponent token``: who may call a gateway."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.exit_codes import exits
from proponent.cli.options import USE
from proponent.errors import InvalidInputError, NotFoundError
from proponent.index.storage import storage_errors

_SCOPES = "predict,explain"
_EXITS = exits(3, 6)


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=USE, epilog=_EXITS)(token)


def token(
    name: Annotated[str, typer.Argument(help="Of the caller, for logs; callers of one name share their bounds.")],
    scopes: Annotated[str, typer.Option(help="predict, explain, examples, admin: joined by commas.")] = _SCOPES,
    level: Annotated[str | None, typer.Option(help="labels, ranks, rounded or full; left out: --disclosure.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Most calls a second, 0 for any; left out: --caller-rate.")
    ] = None,
    explanations: Annotated[
        int | None, typer.Option(help="Most explanations in a window; left out: --caller-explanations.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="Most different training examples in one; left out: --caller-examples.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Add the line to this file instead of printing it.")] = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="NAME is a tokens file of an older version: hash its plain tokens.")
    ] = False,
) -> None:
    """Make a bearer token: prints it, this once, and the line with its hash for the gateway's --tokens-file.

    A running gateway reads the file again when it changes; a token whose line is removed is refused from then on.

    Example: `proponent token alice --scopes predict,explain --level ranks`
    """
    if upgrade:
        _upgrade(Path(name))
        return
    from proponent.gateway.auth.token_file import new_token, token_line

    given = {"level": level, "rate": rate, "explanations": explanations, "examples": examples}
    made = new_token()
    try:
        line = token_line(made, name, scopes, {key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise InvalidInputError(f"no token was made: {error}") from None
    if file is not None:
        _append(file, line)
    typer.echo(made if file is not None else f"{made}\n{line}")


def _append(path: Path, line: str) -> None:
    """Adds a line; a new file is closed to other users."""
    with storage_errors(path.parent):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _upgrade(path: Path) -> None:
    """Hashes the plain tokens of a file in its place."""
    from proponent.gateway.auth.token_file import upgraded

    if not path.is_file():
        raise NotFoundError(f"tokens file not found: {path}", field="file")
    try:
        text, weak = upgraded(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path} was left as it is: {error}") from None
    with storage_errors(path.parent):
        new = path.with_name(f"{path.name}.upgraded")
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    for number in weak:
        warnings.warn(f"{path}: the token of line {number} is short and may be guessed from its hash", stacklevel=1)
