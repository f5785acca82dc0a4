"""Pages of docs/ that are made of the code: the commands, and the settings of the gateway."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from proponent.cli.main import app
from proponent.gateway.effective_settings import bounds_of, default_of, flag_of, unit_of, variable_of
from proponent.gateway.settings import BY_MODEL, Settings

_MADE = "<!-- Made by scripts/docs; a test compares it with the code. -->\n"
_SETTINGS = """
A setting is looked up in this order: flag of `proponent serve`, environment variable, key of the YAML file that
`--config` (or `PROPONENT_CONFIG`) names, default. `proponent serve --print-config` prints all of them as such a file,
with a comment that says where each value came from. An unknown key and a bad value end with exit code 2 and name
the key, the value, its source and what was expected.

Sizes are bytes, or a number with a unit (`10MiB`, `500MB`). A list is separated by commas in an environment variable.
Tokens and keys are never settings themselves: settings name the files that hold them.

Some settings may differ by model: BY_MODEL. As a flag that is
`--model-setting digits.workers=2`, in YAML

```yaml
model_settings:
  digits: {workers: 2, max_explanations: 16}
```

| key in YAML | flag | environment variable | default | values | meaning |
|---|---|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {"cli.md": _commands_page(), "settings.md": _settings_page()}


def _commands_page() -> str:
    root: Any = typer.main.get_command(app)
    commands = [
        command.make_context(name, [], resilient_parsing=True).command for name, command in root.commands.items()
    ]
    panels = {name: command.rich_help_panel for name, command in root.commands.items()}
    text = f"# Command line\n\n{_MADE}\n{root.help}\n"
    for panel, group in groupby(commands, lambda command: panels[command.name]):
        text += f"\n## {panel}\n" + "".join(_command(command) for command in group)
    return text


def _command(command: Any) -> str:
    parameters = [p for p in command.params if not p.hidden]
    lists = "".join(f"* {_parameter(parameter)}\n" for parameter in parameters)
    return f"\n### proponent {command.name}\n\n{command.help}\n\n{lists}\n{command.epilog}\n"


def _parameter(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = (
        [parameter.metavar or parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    )
    shown = " / ".join(f"`{name}`" for name in names)
    notes = "; ".join(_notes(parameter))
    return f"{shown}: {parameter.help}" + (f" ({notes})" if notes else "")


def _notes(parameter: Any) -> Iterator[str]:
    if parameter.envvar:
        yield f"env var: {parameter.envvar}"
    if parameter.default is not None and parameter.default is not False and parameter.default != "":
        yield f"default: {parameter.opts[0].strip('-') if parameter.default is True else parameter.default}"
    low, high = parameter.min, parameter.max
    if low is not None or high is not None:
        yield f"at least {low}" if high is None else f"{low} to {high}"
    if parameter.required:
        yield "required"


def _settings_page() -> str:
    return f"# Settings of proponent serve\n\n{_MADE}{_SETTINGS.replace('BY_MODEL', _by_model())}" + "".join(
        map(_setting, Settings.model_fields)
    )


def _by_model() -> str:
    return textwrap.fill(", ".join(f"`{name}`" for name in BY_MODEL), 100)


def _setting(name: str) -> str:
    values = f"{unit_of(name)}{bounds_of(name)}"
    meaning = Settings.model_fields[name].description
    return f"| `{name}` | `{flag_of(name)}` | `{variable_of(name)}` | {default_of(name)} | {values} | {meaning} |\n"


if __name__ == "__main__":
    for file, content in pages().items():
        (Path(sys.argv[1]) / file).write_text(content, encoding="utf-8")
