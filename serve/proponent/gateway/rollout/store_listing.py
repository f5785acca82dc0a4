"""What a look at a store shows, without taking what cannot be seen for what is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proponent.index.store import CURRENT


@dataclass(frozen=True)
class StoreListing:
    """The models of a store at one moment.

    Attributes:
        models: The digest that is current, by the names of the models; None where it cannot be read.
        place: Device and number of the directory: another one was mounted or moved there where it differs.
    """

    models: Mapping[str, str | None]
    place: tuple[int, int]


def look(root: Path) -> StoreListing:
    """Lists a store.

    Raises:
        OSError: The directory cannot be read.
    """
    found = os.stat(root)
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries)
    seen = {name: _digest(root / name / CURRENT) for name in names}
    models = {name: digest for name, digest in seen.items() if digest != ""}
    return StoreListing(models, (found.st_dev, found.st_ino))


def _digest(pointer: Path) -> str | None:
    """What a pointer names; empty where there is none, None where that cannot be read."""
    try:
        digest = json.loads(pointer.read_bytes())["digest"]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and digest else None
