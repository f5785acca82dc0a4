"""HTML from the templates beside this module: every value is escaped, and nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proponent.display import figures
from proponent.display.contents import cells, is_worded, visible
from proponent.display.marks import parts, strongest

_PNG = b"\x89PNG\r\n\x1a\n"


def render(template: str, **values: Any) -> Markup:
    """A template filled in; what is already Markup is taken as it is."""
    return Markup(_environment().get_template(template).render(**values))


def stream(template: str, **values: Any) -> Iterator[str]:
    """A template filled in piece by piece, so that an iterator among the values is never held as a whole."""
    return _environment().get_template(template).generate(**values)


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs no request."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header.

    Raises:
        ValueError: It is not a PNG.
    """
    if png[:8] != _PNG or len(png) < 24:
        raise ValueError("not a PNG image")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


class Pictures:
    """Pictures of one page: each is inlined once and drawn again by reference, however often it is shown."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str, png: bytes = b"", css: str = "thumb") -> Markup:
        """A picture, or an empty frame where there is none.

        Args:
            name: What it shows; the same name always has the same picture.
            png: Its bytes; may be left out where it was shown before.
            css: Its class.
        """
        if name in self._numbers:
            inside = Markup('<use href="#p{}"/>').format(self._numbers[name])
        elif png:
            self._sizes[name], self._numbers[name] = png_size(png), len(self._numbers)
            inside = _image(self._numbers[name], self._sizes[name], png)
        else:
            return _frame(css)
        opening = '<svg class="{}" role="img" aria-label="picture of {}" viewBox="0 0 {} {}">{}</svg>'
        return Markup(opening).format(css, name, *self._sizes[name], inside)


def _image(number: int, size: tuple[int, int], png: bytes) -> Markup:
    return Markup('<image id="p{}" width="{}" height="{}" href="{}"/>').format(number, *size, data_uri(png))


def _frame(css: str) -> Markup:
    return Markup('<span class="{} none" aria-hidden="true"></span>').format(css)


def plain_picture(name: str, png: bytes, css: str = "thumb") -> Markup:
    """A picture that stands alone, for a fragment that shares its page with others."""
    if not png:
        return _frame(css)
    return Markup('<img class="{}" alt="picture of {}" src="{}">').format(css, name, data_uri(png))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("proponent.display"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("aligned", "count", "counted", "date", "figure", "percent", "signed")
    environment.filters |= {name: getattr(figures, name) for name in shown} | {
        "cells": cells,
        "visible": visible,
        "parts": parts,
        "strongest": strongest,
    }
    environment.tests["worded"] = is_worded
    return environment
