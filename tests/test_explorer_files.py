"""The weight of the page's first view, and that the browser is told of all its modules at once."""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent.parent / "serve/proponent/explorer/static"
SCRIPT_BYTES = 100_000
_IMPORT = re.compile(r'(?:^import[^;]*?from|^import|[;}]import[^;]*?from)\s*"(\.[^"]+)"', re.MULTILINE)


def modules_of(entry: Path) -> set[Path]:
    """A module and all that it imports before it runs; what is imported later does not count."""
    found, waiting = set(), [entry.resolve()]
    while waiting:
        module = waiting.pop()
        found.add(module)
        imported = {(module.parent / name).resolve() for name in _IMPORT.findall(module.read_text("utf-8"))}
        waiting += imported - found
    return found


def test_first_view_is_light() -> None:
    modules = modules_of(STATIC / "app.js")
    names = {module.name for module in modules}
    assert {"preact.js", "hooks.js", "htm.js", "explain.js"} <= names and "uplot.js" not in names
    assert sum(module.stat().st_size for module in modules) < SCRIPT_BYTES


def test_all_modules_of_the_first_view_are_fetched_at_once() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    preloaded = re.findall(r'<link rel="modulepreload" href="explorer/([^"]+)">', page)
    modules = {module.relative_to(STATIC.resolve()).as_posix() for module in modules_of(STATIC / "app.js")}
    assert sorted(preloaded) == sorted(modules - {"app.js"})
