"""Benchmarks go with the package: what each imports is there, and it takes the options of the run of all of them."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from test_architecture import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))


def tree(script: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(script.read_text(encoding="utf-8")))


def file_of(module: str) -> Path | None:
    """Of a module of the package, or of one beside the benchmarks."""
    place = module.replace(".", "/")
    files = [base / end for base in (ROOT / "serve", BENCHMARKS) for end in (f"{place}.py", f"{place}/__init__.py")]
    return next((file for file in files if file.is_file()), None)


@cache
def names_in(file: Path) -> set[str]:
    """What a module binds, and the modules beside it where it is a package."""
    symbols = symtable.symtable(file.read_text(encoding="utf-8"), str(file), "exec").get_symbols()
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported() or s.is_namespace()}
    return bound | ({path.stem for path in file.parent.iterdir()} if file.stem == "__init__" else set())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    found = [node for node in tree(script) if isinstance(node, ast.ImportFrom) and node.module is not None]
    ours = [(node, file_of(node.module or "")) for node in found if not (node.module or "").endswith("_pb2")]
    assert [node.module for node, file in ours if file is None and (node.module or "").startswith("proponent.")] == []
    missing = {
        f"{node.module}.{name.name}"
        for node, file in ours
        for name in node.names
        if file is not None and name.name not in names_in(file)
    }
    assert missing == set()


def options_of(script: Path) -> tuple[set[str], set[str]]:
    """All options that a script knows, and those that it cannot do without."""
    known, needed = set[str](), set[str]()
    for node in tree(script):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            if isinstance(name, str) and name.startswith("--"):
                known.add(name)
                if any(each.arg == "required" for each in node.keywords):
                    needed.add(name)
    return known, needed


def lines_of_the_whole_run() -> list[list[str]]:
    """Words of each command that is a script."""
    calls = (node for node in tree(BENCHMARKS / "run_all.py") if isinstance(node, ast.Call))
    made = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Benchmark")
    lines = [str(ast.literal_eval(call.args[1])).split() for call in made]
    return [words for words in lines if words[0].endswith(".py")]


def test_every_benchmark_takes_the_options_of_the_whole_run() -> None:
    scripts = lines_of_the_whole_run()
    assert len(scripts) > 20
    for script, *words in scripts:
        given = {word for word in words if word.startswith("--")}
        known, needed = options_of(BENCHMARKS / script)
        assert given <= known, f"{script} knows no {given - known}"
        if script != "kronfluence_peer.py":  # its commands need others
            assert needed <= given, f"{script} needs {needed - given}"
