"""Where settings come from: command line, environment, YAML file and defaults, in this order of precedence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ByteSize, ValidationError
from pydantic_settings import EnvSettingsSource

from proponent.errors import NotFoundError, SpecError
from proponent.gateway.setting_types import Unit
from proponent.gateway.settings import Settings

DEFAULT = "default"
_MISSPELT = 0.8
"""Similarity of names (difflib's ratio) from which on one is taken for the other misspelt."""
_EXPECTED = {
    "byte_size": "a size, e.g. 10MiB",
    "byte_size_unit": "a size, e.g. 10MiB",
    "path_not_file": "the path of a file that exists",
}


@dataclass(frozen=True)
class EffectiveSettings:
    """Settings, and for each field where its value was found."""

    settings: Settings
    origins: Mapping[str, str]

    def as_yaml(self) -> str:
        """A YAML file that gives the same settings, with the origin of each as a comment.

        Secrets are not in it: settings only name the files that hold them.
        """
        values = self.settings.model_dump(mode="json")
        lines = [(f"{name}: {json.dumps(value)}", self._comment(name)) for name, value in values.items()]
        width = max(len(line) for line, _ in lines)
        return "\n".join(f"{line:{width}}  # {comment}" for line, comment in lines)

    def _comment(self, name: str) -> str:
        value = getattr(self.settings, name)
        return self.origins[name] + (f"; {value.human_readable()}" if isinstance(value, ByteSize) else "")


def flag_of(name: str) -> str:
    """The command line's name of a setting."""
    extra: Any = Settings.model_fields[name].json_schema_extra
    return str(extra["flag"]) or f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{Settings.model_config['env_prefix']}{name}".upper()


def unit_of(name: str) -> str:
    """In what a setting is given, e.g. ``seconds`` or ``path``."""
    return next((m.name for m in Settings.model_fields[name].metadata if isinstance(m, Unit)), "true or false")


def bounds_of(name: str) -> str:
    """The values that a setting may have, e.g. `` >= 1, <= 86400``."""
    words = {"gt": ">", "ge": ">=", "le": "<="}
    bounds = ((words[key], bound) for m in Settings.model_fields[name].metadata for key, bound in _limits(m))
    return ",".join(f" {word} {bound}" for word, bound in bounds)


def default_of(name: str) -> str:
    """The default as an operator would write it; empty where there is none."""
    default = Settings.model_fields[name].default
    if default is None or default in ((), {}):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> EffectiveSettings:
    """Settings from all that operators may write them in.

    Args:
        flags: What the command line gave, by the names of the fields.
        config: A YAML file whose keys are names of fields.

    Raises:
        NotFoundError: There is no such file.
        SpecError: A key is unknown, a variable misspelt or a value wrong; the message names it, its source and what
            was expected.
    """
    _check_variables()
    environment = EnvSettingsSource(Settings)()
    in_file = _read_config(config) if config else {}
    origins = {
        **dict.fromkeys(Settings.model_fields, DEFAULT),
        **dict.fromkeys(in_file, str(config)),
        **{name: variable_of(name) for name in environment},
        **{name: flag_of(name) for name in flags},
    }
    try:
        settings = Settings(**{**in_file, **environment, **flags})
    except ValidationError as error:
        problems = error.errors()
        details = "; ".join(_describe(problem, origins) for problem in problems)
        raise SpecError(details, field=str(problems[0]["loc"][0])) from None
    return EffectiveSettings(settings, origins)


def _check_variables() -> None:
    """Refuses a variable whose name is almost a setting's: a tokens file that nobody reads would protect nothing."""
    prefix = str(Settings.model_config["env_prefix"]).lower()
    for variable in os.environ:
        name = variable.lower().removeprefix(prefix)
        if name == variable.lower() or name in Settings.model_fields:
            continue
        if near := get_close_matches(name, Settings.model_fields, n=1, cutoff=_MISSPELT):
            raise SpecError(
                f"environment variable {variable} is not a setting, expected {variable_of(near[0])}", field=near[0]
            )


def _limits(metadata: object) -> list[tuple[str, float]]:
    return [(key, getattr(metadata, key)) for key in ("gt", "ge", "le") if hasattr(metadata, key)]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"settings file not found: {path.absolute()}", field="config") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SpecError(f"{path} cannot be read as YAML: {error}", field="config") from None
    if not isinstance(content or {}, dict):
        raise SpecError(f"{path}: expected a mapping of settings, got {type(content).__name__}", field="config")
    return {str(key): value for key, value in (content or {}).items()}


def _describe(problem: Any, origins: Mapping[str, str]) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(name, Settings.model_fields, n=1) or ["one of the names in docs/cli.md"]
        return f"setting {name!r} from {origins[name]} is unknown (value {problem['input']!r}), expected {near[0]}"
    message = problem["msg"].removeprefix("Value error, expected ").removeprefix("Input should be ")
    bound = "a value " if message.startswith(("greater", "less")) else ""
    expected = _EXPECTED.get(problem["type"], bound + message)
    return f"setting {name!r} has value {problem['input']!r} from {origins[name]}, expected {expected}"
