"""What a catalog keeps of an example so that readers can see it: a small picture, a text, or the record of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proponent.index.catalog import LONGEST_TEXT
from proponent.raw_inputs import scalars
from proponent.rebuild.thumbnails import thumbnail
from proponent.results import Scalar

LONGEST_VALUE = 200
"""Characters of a text in a record that are kept."""


@dataclass(frozen=True)
class Content:
    """One of the three, as the example is; all empty for what cannot be shown, such as tensors by name.

    Attributes:
        thumbnail: PNG.
        text: Cut at `LONGEST_TEXT` characters, with a mark that says so.
        record: Values by column; None is a missing one.
    """

    thumbnail: bytes = b""
    text: str = ""
    record: Mapping[str, Scalar] | None = None


def content_of(raw: Any) -> Content:
    """What is kept of an example as its dataset gives it."""
    if isinstance(raw, str):
        return Content(text=shortened(raw, LONGEST_TEXT))
    if isinstance(raw, Mapping):
        return Content(record=_record(raw))
    return Content(thumbnail(raw))


def shortened(text: str, longest: int) -> str:
    """A text of at most so many characters and, where some are missing, a mark; always valid UTF-8.

    >>> shortened("abcdef", 3)
    'abc… [cut: 3 of 6 characters]'
    """
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= longest else f"{whole[:longest]}… [cut: {longest} of {len(whole)} characters]"


def _record(raw: Mapping[Any, Any]) -> Mapping[str, Scalar] | None:
    values = scalars(raw)
    if not all(value is None or isinstance(value, str | bool | int | float) for value in values.values()):
        return None
    return {shortened(name, LONGEST_VALUE): _kept(value) for name, value in values.items()}


def _kept(value: Scalar) -> Scalar:
    """A value that JSON can hold: what is not finite is missing."""
    if isinstance(value, str):
        return shortened(value, LONGEST_VALUE)
    return None if isinstance(value, float) and not math.isfinite(value) else value
