"""Every public name has an example in its docstring, and every example is true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import proponent
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.training.train_preset import train_preset

MODULES = sorted({*proponent._HOMES, "proponent.client.sync", "proponent.client.aio", "proponent.client.connection"})
MODULES += [
    "proponent.display.figures",
    "proponent.display.sentences",
    "proponent.client.retry",
    "proponent.explainer.explainer",
    "proponent.rebuild",
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the examples take for granted: a trained project, and a store with its bundle."""
    project, store = (tmp_path_factory.mktemp(name) for name in ("project", "store"))
    train_preset("digits", project)
    rebuild(load_spec(project), Store(store), RebuildOptions(quiet=True))
    return {"project": project, "store": store}


@pytest.mark.parametrize("module", MODULES)
def test_examples_are_true(module: str, names: dict[str, Path]) -> None:
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.testmod(importlib.import_module(module), extraglobs=names, optionflags=flags)
    assert found.failed == 0


def test_every_public_name_has_an_example() -> None:
    values = {name: getattr(proponent, name) for name in proponent.__all__}
    assert [name for name, value in values.items() if ">>> " not in (value.__doc__ or "")] == []
