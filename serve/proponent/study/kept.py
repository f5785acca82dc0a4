"""Files of JSON that a run keeps: whole, not there, or damaged, which is told and means that they are made again."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any


class DamagedWarning(UserWarning):
    """A file that an earlier run left is missing or damaged, so that what it held is made again."""


def tell_damaged(what: object, why: str = "damaged") -> None:
    """Warns that something is made again."""
    warnings.warn(f"{what} is {why}: it is made again", DamagedWarning, stacklevel=2)


def write_whole(path: Path, value: Any) -> None:
    """Writes JSON under another name first: a file of that name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def read_whole(path: Path, keys: Collection[str]) -> dict[str, Any] | None:
    """An object in a file with at least these keys; None where there is none, with a warning where it is damaged."""
    found = loaded(path)
    if found is None and path.exists():
        tell_damaged(path)
    elif found is not None and not found.keys() >= set(keys):
        tell_damaged(path, "damaged or of another version")
        return None
    return found


def loaded(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # of which those of JSON and of UTF-8 are
        return None
    return found if isinstance(found, dict) else None
