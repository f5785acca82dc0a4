"""A page written to its file: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from markupsafe import Markup

from proponent.errors import NotFoundError
from proponent.index.storage import storage_errors

_PIECE = 1 << 16


def check_out(out: Path) -> None:
    """Raises NotFoundError where a page could not be written, before anything is computed for it."""
    if not out.absolute().parent.is_dir():
        raise NotFoundError(f"folder of the report not found: {out.absolute().parent}", field="out")
    if out.is_dir():
        raise NotFoundError(f"report {out.absolute()} is a folder, expected a file", field="out")


def write_page(out: Path, pieces: Iterable[str]) -> None:
    """Writes a page beside its file and renames it into place; a pipe, a device or a link stays and is written to.

    Raises:
        StorageError: The disk is full or read-only.
    """
    out = out.absolute()
    with storage_errors(out.parent):
        if out.is_symlink() or (out.exists() and not out.is_file()):
            _write(out, pieces)
            return
        part = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            _write(part, pieces)
            os.replace(part, out)
        finally:
            part.unlink(missing_ok=True)


def _write(path: Path, pieces: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(pieces)


@contextmanager
def set_aside() -> Iterator[TextIO]:
    """A file for the parts of a page that are made before its beginning, so that memory holds one at a time."""
    with TemporaryFile("w+", encoding="utf-8", newline="\n") as file:
        yield file


def pieces_of(file: TextIO) -> Iterator[Markup]:
    """What was set aside, from its beginning."""
    file.seek(0)
    while piece := file.read(_PIECE):
        yield Markup(piece)
