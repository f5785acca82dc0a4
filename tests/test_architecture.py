"""Who may import whom: the directions that keep the gateway small and the mathematics free of files and services."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proponent

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "serve"
PACKAGE = SOURCE / "proponent"
HANDLER = ROOT / "handlers" / "influence_handler.py"


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.name.endswith(("_pb2.py", "_grpc.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, types alone and inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if _is_module(node.module, alias.name))


def _is_module(package: str, name: str) -> bool:
    base = SOURCE.joinpath(*package.split("."))
    return (base / f"{name}.py").exists() or (base / name / "__init__.py").exists()


def room(module: str) -> str:
    """The first part below the package: a folder or a file."""
    return ".".join(module.split(".")[:2])


def below(module: str, *prefixes: str) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def offences(importer: str, *forbidden: str) -> list[str]:
    return [
        f"{name} imports {found}"
        for name, path in MODULES.items()
        if below(name, importer)
        for found in imports(path)
        if below(found, *forbidden)
    ]


def test_there_is_something_to_look_at() -> None:
    assert {"proponent.index.rows", "proponent.attribution.losses", "proponent.gateway.server"} <= set(MODULES)
    assert "proponent.attribution.losses" in set(imports(PACKAGE / "classifier.py"))


def test_attribution_and_index_never_meet() -> None:
    assert offences("proponent.attribution", "proponent.index") == []
    assert offences("proponent.index", "proponent.attribution") == []


def test_attribution_knows_no_files_and_no_services() -> None:
    assert offences("proponent.attribution", "faiss", "grpc", "pydantic", "pathlib", "google", "sqlite3", "os") == []
    above = {found for n, p in MODULES.items() if below(n, "proponent.attribution") for found in imports(p)}
    ours = {"proponent.bounds.cancellation", "proponent.errors"}
    assert {f for f in above if below(f, "proponent") and not below(f, "proponent.attribution")} == ours


def test_only_the_rows_know_faiss() -> None:
    assert [name for name, path in MODULES.items() if "faiss" in set(imports(path))] == ["proponent.index.rows"]


GATEWAY_MAY = (
    "proponent.gateway",
    "proponent.v1",
    "proponent.options",
    "proponent.request_options",
    "proponent.results",
    "proponent.signature",
    "proponent.input_checks",
    "proponent.tensor_messages",
    "proponent.errors",
    "proponent.bounds.cost",
    "proponent.index.catalog",
    "proponent.index.bundle",
    "proponent.index.store",
)
# The keeping of bundles as files, which a rollout needs; none of it reads a row (the next test sees to that).
GATEWAY_MAY_TOO = (
    "proponent.bounds.frames",
    "proponent.bounds.liveness",
    "proponent.index.audit_file",
    "proponent.index.example_list",
    "proponent.index.example_summary",
    "proponent.index.faults",
    "proponent.index.lifecycle",
    "proponent.index.lock",
    "proponent.index.paging",
    "proponent.index.sample_lists",
    "proponent.index.samples",
    "proponent.index.storage",
    "proponent.index.tombstones",
)


def test_the_gateway_imports_the_contract_and_the_catalog_alone() -> None:
    found = {(n, f) for n, p in MODULES.items() if below(n, "proponent.gateway") for f in imports(p)}
    assert [
        f"{name} imports {module}"
        for name, module in sorted(found)
        if below(module, "proponent")
        and module not in ("proponent", "proponent.index")
        and not below(module, *GATEWAY_MAY, *GATEWAY_MAY_TOO)
    ] == []
    assert offences("proponent.gateway", "torch", "torchvision", "faiss", "safetensors") == []


@pytest.mark.parametrize("module", ["proponent.gateway.server", "proponent.cli.main", "proponent.results"])
def test_the_process_of_the_gateway_never_loads_torch_or_faiss(module: str) -> None:
    """Also not through somebody else; the command line that starts it counts too, and what draws does."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    heavy = {"torch", "faiss", "torchvision", "scipy", "matplotlib"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_bottom_imports_nothing_of_ours() -> None:
    """But the options that results speak of, and what a result asks for when it is to become a table or be shown."""
    shown = {"proponent.options", "proponent.signature", "proponent.display.lists_plot", "proponent.display.notebook"}
    for name in (
        "proponent.errors",
        "proponent.bounds.liveness",
        "proponent.options",
        "proponent.signature",
        "proponent.results",
    ):
        found = set(imports(MODULES[name])) - (shown if name == "proponent.results" else set())
        others = {"pandas", "matplotlib"} if name == "proponent.results" else set()
        assert {module.partition(".")[0] for module in found} - others <= sys.stdlib_module_names


def test_display_imports_nothing_of_ours_and_pyplot_never() -> None:
    found = {(n, f) for n, p in MODULES.items() if below(n, "proponent.display") for f in imports(p)}
    assert [pair for pair in found if below(pair[1], "proponent") and not below(pair[1], "proponent.display")] == []
    assert offences("proponent", "matplotlib.pyplot") == []


def test_importing_the_package_alone_is_light() -> None:
    """No torch, no faiss, nothing but the standard library."""
    code = (
        "import sys; before = set(sys.modules); import proponent; "
        "print({m.partition('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names - {'proponent'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(proponent, name) is not None for name in proponent.__all__)
    assert set(proponent.__all__) <= set(dir(proponent))
    with pytest.raises(AttributeError, match="no attribute 'Explain'"):
        _ = proponent.Explain


def test_nothing_imports_the_command_line() -> None:
    tops = ("proponent.cli",)
    assert [o for o in offences("proponent", *tops) if not below(o.split()[0], *tops)] == []


def room_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        others = {room(found) for found in imports(path) if below(found, "proponent") and found != "proponent"}
        graph.setdefault(room(name), set()).update(others - {room(name)})
    return graph


def test_rooms_have_no_cycles() -> None:
    graph = room_graph()
    done: set[str] = set()
    while True:
        free = {name for name, others in graph.items() if name not in done and not (others & graph.keys()) - done}
        if not free:
            break
        done |= free
    assert sorted(graph.keys() - done) == [], {name: sorted(graph[name] - done) for name in graph.keys() - done}


def test_modules_of_one_room_have_no_cycles() -> None:
    graph = {name: {f for f in imports(path) if f in MODULES} - {name} for name, path in MODULES.items()}
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    for name in graph:
        graph[name] -= packages
    done: set[str] = set(packages)
    while free := {name for name, others in graph.items() if name not in done and not others - done}:
        done |= free
    assert sorted(graph.keys() - done) == []


def test_the_handler_is_one_small_class_and_knows_only_the_worker() -> None:
    text = HANDLER.read_text(encoding="utf-8")
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert classes == ["InfluenceHandler"]
    assert len(text.splitlines()) <= 80
    ours = {found for found in imports(HANDLER) if below(found, "proponent")}
    assert all(below(found, "proponent.worker", "proponent.errors", "proponent.v1") for found in ours), ours


def test_the_guide_to_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.proto|/))`", text))
    folders = ("serve", "proto", "tests", "benchmarks")
    known = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.*")}
    known |= {f"{Path(path).parent.as_posix()}/" for path in known}
    assert len(named) > 10
    assert [name for name in sorted(named) if not any(f"/{path}".endswith(f"/{name}") for path in known)] == []


def test_only_one_folder_is_a_package() -> None:
    for folder in ("serve", "handlers", "proto", "scripts", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()
