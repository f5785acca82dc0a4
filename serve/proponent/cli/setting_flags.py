"""Commands whose flags are the settings of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from proponent.gateway.effective_settings import EffectiveSettings

_CONFIG = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file whose keys are settings.", envvar="PROPONENT_CONFIG", metavar="path"),
]


def settings_command(
    stand_in: Callable[[], None],
    run: Callable[..., None],
    own: Mapping[str, Any],
    epilog: str,
    *,
    hidden: bool = False,
) -> type[TyperCommand]:
    """The class of a command that has a parameter for each setting.

    It stands in help for the command, and makes it when it is called: pydantic takes longer to load than all else.

    Args:
        stand_in: A function without parameters, whose name and docstring are the command's.
        run: Called with what ``effective`` needs, ``given`` and ``config``, and the command's own parameters.
        own: Switches of the command itself, as typer annotates them, by name.
        epilog: Last line of its help.
        hidden: Whether help leaves the settings out, since another command's help has them.
    """

    class Command(TyperCommand):
        def make_context(self, *arguments: Any, **named: Any) -> Any:
            return _with_flags(stand_in, run, own, epilog, hidden=hidden).make_context(*arguments, **named)

    return Command


def effective(given: Mapping[str, Any], config: Path | None) -> EffectiveSettings:
    """The settings that flags, environment, file and defaults make together.

    Raises:
        SpecError: A value is wrong; says all that are.
    """
    from proponent.gateway.effective_settings import load_settings

    return load_settings({name: value for name, value in given.items() if value is not None}, config)


def _with_flags(
    stand_in: Callable[[], None], run: Callable[..., None], own: Mapping[str, Any], epilog: str, *, hidden: bool
) -> TyperCommand:
    from proponent.gateway.settings import Settings

    def command(config: Path | None, **given: Any) -> None:
        switches = {name: given.pop(name) for name in own}
        run(given, config, **switches)

    flags = [_parameter(name, field, hidden=hidden) for name, field in Settings.model_fields.items()]
    switches = [_keyword(name, annotation, False) for name, annotation in own.items()]
    command.__signature__ = Signature([*flags, _keyword("config", _CONFIG, None), *switches])  # type: ignore[attr-defined]
    command.__doc__ = stand_in.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(name=stand_in.__name__, epilog=epilog)(command)
    made = typer.main.get_command(app)
    assert isinstance(made, TyperCommand)
    return made


def _parameter(name: str, field: FieldInfo, *, hidden: bool) -> Parameter:
    """A setting as the command line's parameter: text, which the settings check, a switch, or several texts."""
    from proponent.gateway.effective_settings import flag_of, unit_of

    extra: Any = field.json_schema_extra
    shown: dict[str, Any] = {"help": _help(name, field), "rich_help_panel": extra["panel"], "show_default": False}
    if name == "store":
        return _keyword(name, Annotated[str | None, typer.Argument(metavar="STORE", **shown)], None)
    shown["hidden"] = hidden
    if field.annotation in (bool, bool | None):
        return _keyword(name, Annotated[bool | None, typer.Option(**shown)], None)
    kind = list[str] if isinstance(field.default, tuple | dict) else str
    option = typer.Option(flag_of(name), metavar=unit_of(name), **shown)
    return _keyword(name, Annotated[kind | None, option], None)


def _keyword(name: str, annotation: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _help(name: str, field: FieldInfo) -> str:
    from proponent.gateway.effective_settings import default_of

    default = default_of(name)
    return f"{field.description} [default: {default}]" if default else str(field.description)
