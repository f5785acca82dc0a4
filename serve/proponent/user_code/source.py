"""The user's code that a result depends on, as one digest.

A factory is known by its name, which stays the same when its code is changed. What was computed with the code before
must not be taken for a result of the code now: stages of a rebuild that resumes, models that an audit has retrained.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from proponent.spec import ModelSpec


def code_sha256(spec: ModelSpec) -> str:
    """SHA-256 of the modules that the spec's factories name, and of those beside the spec that they import.

    Libraries are known by their versions. Nothing is imported but the packages above a library's module.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_modules(spec).items()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}|{content}|".encode())
    return digest.hexdigest()


def _modules(spec: ModelSpec) -> dict[str, Path]:
    """Files by the names of their modules."""
    named = [name.partition(":")[0] for name in _callables(spec)]
    found: dict[str, Path] = {}
    waiting = list(named)
    while waiting:
        for name, path in _beside(spec.root, waiting.pop()):
            if name not in found:
                found[name] = path
                waiting += _imports(name, path)
    libraries = {name: _library(name) for name in named if name not in found}
    return found | {name: path for name, path in libraries.items() if path}


def _callables(spec: ModelSpec) -> list[str]:
    factories = (spec.model, spec.dataset, spec.held_out, spec.transform, spec.training)
    return [factory.factory for factory in factories if factory] + ([spec.loss] if ":" in spec.loss else [])


def _beside(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A module below the root and the packages that hold it, as far as there are such files."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        folder = root.joinpath(*parts[:count])
        for path in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if path.is_file():
                yield ".".join(parts[:count]), path
                break


def _imports(name: str, path: Path) -> Iterator[str]:
    """What may be modules among the imports anywhere in a file; none where it cannot be parsed."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # above the top-level package: Python refuses it as well
        return node.module or ""


def _library(name: str) -> Path | None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    path = Path(found.origin) if found and found.origin else None
    return path if path and path.is_file() else None
