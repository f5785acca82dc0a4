"""What a GPU needs of the code, as far as a processor shows it: nothing waits for a device, nothing is TF32 there.

A meta tensor has a shape and no numbers: ``item``, ``tolist``, ``bool``, a copy to the host and a selection by a
mask, each of which would make a GPU's host wait, fail on it. So what runs on meta tensors does not wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from proponent.explainer import Explainer
from proponent.explainer.query import FIGURES, QueryEmbedder
from proponent.index.row_code import CodedRows, RowCode
from proponent.index.row_store import ResidentRows, RowStore
from proponent.index.rows import InfluenceIndex, padded
from proponent.index.scan import SPARE, scan
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.stages import Stopwatch
from test_rows import random_scales

META = torch.device("meta")


@contextmanager
def tf32_seen() -> Iterator[list[bool]]:
    """Whether TF32 was allowed at each call of a layer inside, for a process that allows it."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    seen: list[bool] = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: seen.append(any(backend.allow_tf32 for backend in backends))
    )
    try:
        for backend in backends:
            backend.allow_tf32 = True
        yield seen
        assert all(backend.allow_tf32 for backend in backends), "the process's own choice was not restored"
    finally:
        handle.remove()
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    path = tiny.project(root / "project", model="grouped", curvature={"kind": "ekfac", "embedding_size": 8})
    with tf32_seen() as seen:
        found = rebuild(load_spec(path), Store(root / "store"), RebuildOptions(quiet=True))
    assert seen
    assert not any(seen), "a rebuild ran with TF32"
    return found


def test_nothing_runs_in_tf32(bundle: Path) -> None:
    explainer = Explainer.load(bundle)
    with tf32_seen() as seen:
        explainer.predict(tiny.inputs(2))
        predicted = len(seen)
        explainer.explain(tiny.inputs(2), [ExplainOptions()] * 2)
        explained = len(seen)
        explainer.find_flip_set(tiny.inputs(1)[0])
    assert 0 < predicted < explained < len(seen)
    assert not any(seen)


def store_of(rows: int, size: int, groups: int) -> RowStore:
    """Rows for queries of so many numbers: vectors, or codes of half the numbers in bases of so many groups."""
    row_size = size // 2 if groups else size
    held = ResidentRows(torch.empty(rows, padded(row_size), dtype=torch.float16, device=META))
    bases = torch.zeros(groups, row_size, size)
    return CodedRows(held, RowCode(bases, torch.arange(rows) % groups)) if groups else held


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(("rows", "groups"), [(100, 0), (50_000, 0), (100, 3), (50_000, 3)])
def test_from_inputs_to_scored_candidates_nothing_waits_for_the_device(
    bundle: Path, rows: int, groups: int, filtered: bool
) -> None:
    """Once inputs that use the layers alike have been tried, which reads what it finds."""
    explainer = Explainer.load(bundle)
    embedder, count = explainer._embedder, 4
    embedder.embed(tiny.inputs(count), [Target()] * count, Stopwatch())
    classifier = replace(explainer.classifier, model=explainer.classifier.model.to(META), device=META)
    there = QueryEmbedder(classifier, embedder.embedding.to(META), embedder.layers)
    there._tried = embedder._tried
    targets = [Target(), Target(class_id=1), Target(class_id=1, against=2), Target(class_id=77)]
    batch = there.begin(tiny.inputs(count), targets, Stopwatch()).batch
    assert (batch.figures.shape, batch.figures.device) == ((count, 3 + FIGURES), META)
    size = embedder.embedding.size
    index = InfluenceIndex(None, store_of(rows, size, groups), random_scales(rows), size)
    masks = [torch.ones(rows, dtype=torch.bool) if filtered else None, *[None] * (count - 1)]
    found = scan(index, batch.directions, [3] * count, masks, tuple(Measure))
    assert found.numbers.shape == (count, 6, 2 * (3 + SPARE) + 1)
    assert found.products is not None
    assert {found.numbers.device, found.products.device} == {META}
