"""What several commands share: options, the panels of help, and the store that they name."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from proponent.errors import InvalidInputError, SpecError
from proponent.index.store import Store

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="PROPONENT_STORE")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; needed when the store has several.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
MeasureOption = Annotated[list[str] | None, typer.Option("--measure", help="influence, theta-relatif or l-relatif.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Also write a page that needs no network.")]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", help="Compute on a Ray cluster: its head's HOST:PORT, auto, or local for a new one here."),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="With --ray: processes; 0 for all that there is room for.")
]
GpusOption = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="With --ray: GPUs of each process.")]
DEFAULT_STORE = Path("model_store")
E = TypeVar("E", bound=Enum)

# Panels of `proponent --help`, in the order of use.
USE = "From training to explanations"
WHAT_IF = "Chosen training examples"
CHECK = "Look and check"
LIFE = "Index lifecycle"


def open_store(store: Path, model: str | None) -> tuple[Store, str]:
    """The store, and the name of the model that is meant."""
    opened = Store(store)
    return opened, opened.only_model(model)


def current_bundle(store: Path, model: str | None) -> Path:
    """The current bundle of the model that is meant."""
    opened, name = open_store(store, model)
    return opened.current(name)


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


def member(kind: type[E], name: str) -> E:
    """The member of an enum whose value is given.

    Raises:
        InvalidInputError: No member has it; the message lists the values.
    """
    try:
        return kind(name)
    except ValueError:
        word, known = kind.__name__.lower(), ", ".join(str(one.value) for one in kind)
        raise InvalidInputError(f"{word} {name!r} is unknown, expected one of {known}", field=word) from None
