"""The command ``proponent serve``: its flags are the settings of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from proponent.cli.exit_codes import exits
from proponent.cli.options import USE
from proponent.cli.setting_flags import effective, settings_command

_PRINT_CONFIG = Annotated[
    bool, typer.Option("--print-config", help="Print all settings and where each comes from, as YAML; do not serve.")
]
_EXITS = exits(3)


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    command = settings_command(serve, _serve, {"print_config": _PRINT_CONFIG}, _EXITS)
    app.command(cls=command, rich_help_panel=USE, epilog=_EXITS)(serve)


def serve() -> None:
    """Serve the current bundles: typed gRPC and HTTP in front of a private TorchServe.

    While it runs, rebuild, publish and rollback on the same store switch it to another bundle without a failed
    request; load and unload, or --watch, let models come and go. After SIGTERM, /readyz and gRPC health say not
    ready, and calls are answered for --drain-delay more; Ctrl-C does not wait. Then calls in flight finish; a second
    signal drops them.

    A flag wins over its environment variable (--max-image-bytes is PROPONENT_MAX_IMAGE_BYTES), that over the key of
    the same name (max_image_bytes) in the YAML file of --config, and that over the default. Unknown keys and misspelt
    variables are refused. docs/settings.md has all names, units and bounds.

    Example: `proponent serve model_store --allow-thumbnails --print-config`
    """


def _serve(given: Mapping[str, Any], config: Path | None, print_config: bool) -> None:
    found = effective(given, config)
    if print_config:
        typer.echo(found.as_yaml())
        return
    from proponent.gateway.server import run

    raise typer.Exit(run(found.settings))
