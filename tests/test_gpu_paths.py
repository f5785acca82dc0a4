"""What a GPU needs of the code, as far as a processor shows it: nothing waits for a device, nothing is TF32 there.

A meta tensor has a shape and no numbers: ``item``, ``tolist``, ``bool``, a copy to the host and a selection by a
mask, each of which would make a GPU's host wait, fail on it. So what runs on meta tensors does not wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.scaling import contrast_output_gradient, scaled_output_gradient
from proponent.explainer import Explainer
from proponent.index.selection import EndBounds, strongest_ends
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

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


def test_from_an_input_to_its_vector_nothing_waits_for_the_device(bundle: Path) -> None:
    explainer = Explainer.load(bundle)
    embedder, loss = explainer._embedder, explainer.classifier.loss
    embedding = embedder.embedding.to(META)
    with CaptureSession(explainer.classifier.model.to(META), embedder.layers) as session:
        outputs = session.forward(torch.empty(4, *explainer.signature.shape, device=META))
        labels = loss.predict(outputs)
        assert loss.probabilities(outputs.double()).shape == (4, 3)
        for scaled in (
            scaled_output_gradient(loss, outputs, labels),
            contrast_output_gradient(loss, outputs, labels, labels),
        ):
            phi = embedding.embed(session.backward(scaled.unit))
            assert (phi.shape, phi.device, scaled.has_direction.device) == ((4, embedding.size), META, META)


@pytest.mark.parametrize("rows", [100, 100_000])
@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_are_found_without_waiting_for_the_device(rows: int, filtered: bool) -> None:
    allowed = torch.empty(5, rows, device=META) if filtered else None
    products, weights = torch.empty(5, rows, device=META), torch.empty(3, rows, device=META)
    bounds, places = strongest_ends(EndBounds(products, weights, 1e-4, allowed), 16)
    assert (bounds.shape, bounds.device, places.shape, places.device) == ((5, 6, 16), META, (5, 6, 16), META)
