"""Where data files are looked for: an explicit root, else the environment variable ``PROPONENT_DATA``."""

from __future__ import annotations

import os
from pathlib import Path

from proponent.errors import NotFoundError

ENVIRONMENT_VARIABLE = "PROPONENT_DATA"
_REMEDY = f"Set --data-root or the environment variable {ENVIRONMENT_VARIABLE} to the folder that holds it."


def data_file(root: str | os.PathLike[str] | None, *candidates: str) -> Path:
    """Return the first of several files that exists below the data root.

    Args:
        root: The data root; ``None`` means the environment variable ``PROPONENT_DATA``.
        candidates: Relative paths in order of preference.

    Returns:
        The path of the file found.

    Raises:
        NotFoundError: If no root is known or none of the files exists; the message names every path
            looked at and how to set the root. Reason ``DATA_MISSING``.
    """
    base = root or os.environ.get(ENVIRONMENT_VARIABLE)
    if not base:
        raise _missing(f"No data root is set, needed to find {' or '.join(candidates)}.")
    paths = [Path(base) / candidate for candidate in candidates]
    for path in paths:
        if path.is_file():
            return path
    raise _missing(f"Data file not found; looked at {', '.join(map(str, paths))}.")


def _missing(sentence: str) -> NotFoundError:
    return NotFoundError(f"{sentence} {_REMEDY}", field="data_root", reason="DATA_MISSING")
