"""Which code a result was made by: results of code that has changed since are not taken for those of today's."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "proponent.study"
ROOT = Path(__file__).parent
DRAWN = ("drawing", "outcome")
"""Modules that show figures and change none."""


def code_of(module: str) -> str:
    """A digest of a module of the study and of those of the study that it imports, directly or not.

    Args:
        module: Its full name, such as "proponent.study.models".
    """
    digest = hashlib.sha256()
    for name in sorted(_reached(module)):
        digest.update(_path(name).read_bytes())
    return digest.hexdigest()[:8]


def _reached(module: str) -> set[str]:
    """The module and what it imports, within the package."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and not name.endswith(DRAWN) and _path(name).is_file():
            found.add(name)
            waiting += _imported(name)
    return found


def _imported(module: str) -> Iterator[str]:
    """Names of modules in the package that a module may import, and of what it takes from them."""
    for node in ast.walk(ast.parse(_path(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")[2:]).with_suffix(".py")
