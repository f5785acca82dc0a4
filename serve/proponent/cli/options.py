"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proponent.errors import SpecError

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="PROPONENT_STORE")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; needed when the store has several.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
DEFAULT_STORE = Path("model_store")


def byte_size(text: str, option: str) -> int:
    """Bytes of e.g. ``8GiB``, ``500MB`` or ``1000000``.

    Raises:
        SpecError: It is not a size; the message names the option.
    """
    from pydantic import ByteSize, Field, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(Annotated[ByteSize, Field(ge=1)]).validate_python(text))
    except ValidationError:
        message = f"{option} has value {text!r}, expected a size, e.g. 8GiB or 500MB"
        raise SpecError(message, field=option.removeprefix("--")) from None
