"""A text as an input, where a plain ``str`` would be the path of a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A text to classify.

    >>> Text("a fine film").text
    'a fine film'
    """

    text: str
