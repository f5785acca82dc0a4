"""The command ``proponent serve``: its flags are the settings of the gateway."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from proponent.cli.exit_codes import exits
from proponent.cli.options import USE

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_CONFIG = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file whose keys are settings.", envvar="PROPONENT_CONFIG", metavar="path"),
]
_PRINT_CONFIG = Annotated[
    bool, typer.Option("--print-config", help="Print all settings and where each comes from, as YAML; do not serve.")
]

_EXITS = exits(3)


class _ServeCommand(TyperCommand):
    """Stands in help for the command, and makes it when it is called: pydantic takes longer to load than all else."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        return _with_flags().make_context(*arguments, **named)


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(cls=_ServeCommand, rich_help_panel=USE, epilog=_EXITS)(serve)


def serve() -> None:
    """Serve the current bundles: typed gRPC and HTTP in front of a private TorchServe.

    While it runs, rebuild, publish and rollback on the same store switch it to another bundle without a failed
    request. After SIGTERM, /readyz and gRPC health say not ready, and calls are answered for --drain-delay more;
    Ctrl-C does not wait. Then calls in flight finish; a second signal drops them.

    A flag wins over its environment variable (--max-image-bytes is PROPONENT_MAX_IMAGE_BYTES), that over the key of
    the same name (max_image_bytes) in the YAML file of --config, and that over the default. Unknown keys and misspelt
    variables are refused. docs/settings.md has all names, units and bounds.

    Example: `proponent serve model_store --allow-thumbnails --print-config`
    """


def _with_flags() -> TyperCommand:
    """The command with a parameter for each setting."""
    from proponent.gateway.settings import Settings

    def run_serve(**given: Any) -> None:
        _serve(**given)

    flags = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    own = [_keyword("config", _CONFIG, None), _keyword("print_config", _PRINT_CONFIG, False)]
    run_serve.__signature__ = Signature([*flags, *own])  # type: ignore[attr-defined]
    run_serve.__doc__ = serve.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(name="serve", epilog=_EXITS)(run_serve)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _serve(config: Path | None, print_config: bool, **given: Any) -> None:
    from proponent.gateway.effective_settings import load_settings

    effective = load_settings({name: value for name, value in given.items() if value is not None}, config)
    if print_config:
        typer.echo(effective.as_yaml())
        return
    from proponent.gateway.server import run

    raise typer.Exit(run(effective.settings))


def _parameter(name: str, field: FieldInfo) -> Parameter:
    """A setting as the command line's parameter: text, which the settings check, a switch, or several texts."""
    from proponent.gateway.effective_settings import flag_of, unit_of

    extra: Any = field.json_schema_extra
    shown: dict[str, Any] = {"help": _help(name, field), "rich_help_panel": extra["panel"], "show_default": False}
    if name == "store":
        return _keyword(name, Annotated[str | None, typer.Argument(metavar="STORE", **shown)], None)
    if field.annotation in (bool, bool | None):
        return _keyword(name, Annotated[bool | None, typer.Option(**shown)], None)
    kind = list[str] if isinstance(field.default, tuple) else str
    option = typer.Option(flag_of(name), metavar=unit_of(name), **shown)
    return _keyword(name, Annotated[kind | None, option], None)


def _keyword(name: str, annotation: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _help(name: str, field: FieldInfo) -> str:
    from proponent.gateway.effective_settings import default_of

    default = default_of(name)
    return f"{field.description} [default: {default}]" if default else str(field.description)
