"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="PROPONENT_STORE")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; needed when the store has several.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
DEFAULT_STORE = Path("model_store")
