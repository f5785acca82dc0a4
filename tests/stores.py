"""Stores with real bundles of a tiny model, copied from one that is built once, and the command line on them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import tiny
from proponent.cli.main import main
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

MODEL = "toy"
COUNT = 40


def build(root: Path) -> Path:
    """A project and, in ``root/store``, two bundles of it that differ in their damping; returns explain.yaml."""
    path = tiny.project(root / "project", count=COUNT)
    content = yaml.safe_load(path.read_text())
    for damping in (0.0, 0.01):
        tiny.write(path.parent, {**content, "curvature": {"kind": "exact", "damping": damping}})
        rebuild(load_spec(path), Store(root / "store"), RebuildOptions(quiet=True))
    return path


def copy(template: Path, target: Path) -> Store:
    """A store of its own for one test."""
    shutil.copytree(template / "store", target)
    return Store(target)


def digests(store: Store) -> tuple[str, str]:
    """The current bundle and the one before."""
    pointer = store.pointer(MODEL)
    return pointer["digest"], pointer["previous"]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, store: Store) -> Done:
    """The command line, in this process."""
    command = ["proponent", *map(str, arguments), "--store", str(store.root)]
    streams, code = (io.StringIO(), io.StringIO()), 0
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.object(warnings, "showwarning"),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
    return Done(code, *(stream.getvalue() for stream in streams))


def output(*arguments: str | Path, store: Store) -> Any:
    """What a command prints as JSON; it must succeed."""
    done = run(*arguments, "--json", store=store)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
