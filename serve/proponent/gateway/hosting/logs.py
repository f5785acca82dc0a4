"""What the parts of a host printed last."""

from __future__ import annotations

from pathlib import Path


def last_words(root: Path) -> dict[str, str]:
    """The last lines of each log in a directory, by its name; those of rotated files are older."""
    return {path.stem: tail(path) for path in sorted(root.glob("*.log")) if "." not in path.stem}


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(content.splitlines()[-lines:])
