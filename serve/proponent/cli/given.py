"""The input of a command: an image file, a text, or a row of a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proponent.errors import InvalidInputError, NotFoundError
from proponent.text import Text

Value = Path | Text | dict[str, Any]


def given_input(image: Path | None, text: str | None, record: str | None) -> Value:
    """The one of them that is there.

    Raises:
        NotFoundError: No file of that name.
        InvalidInputError: None or several are given, or the record is not a JSON object.
    """
    given = [name for name, value in (("IMAGE", image), ("--text", text), ("--record", record)) if value is not None]
    if len(given) != 1:
        told = " and ".join(given) or "no input"
        raise InvalidInputError(f"{told}: expected one of an image file, --text and --record", field="input")
    if text is not None:
        return Text(_content(text, "text"))
    return _record(_content(record, "record")) if record is not None else image or Path()


def input_and_ids(arguments: list[str], text: str | None, record: str | None) -> tuple[Value, list[str]]:
    """The input and the ids of training examples; the first argument is an image where there is no other input."""
    if text is None and record is None:
        image, *ids = arguments
        if not ids:
            raise InvalidInputError("no ids of training examples behind the image", field="example_ids")
        return given_input(Path(image), None, None), ids
    return given_input(None, text, record), arguments


def _content(given: str, field: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{field} not found: {given[1:]}: {error.strerror}", field=field) from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{field} in {given[1:]} is not UTF-8: {error}", field=field) from None


def _record(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"record is not valid JSON: {error}", field="record") from None
    if not isinstance(values, dict):
        raise InvalidInputError(f"record is a JSON {type(values).__name__}, expected an object", field="record")
    return values
