"""The joint basis that is computed in pieces is that of the rows as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from proponent.attribution.embedding.joint import RAW_SHARE
from proponent.classifier import load_classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.compression import compress
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.directions import directions_of, stored_subspaces, stored_whitening
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.joint_stage import from_pieces, in_pieces
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

SIZE = 9


def opened(path: Path, directory: Path) -> RebuildContext:
    classifier = load_classifier(load_spec(path))
    data = TrainingSet.open(classifier, classifier.spec.dataset)
    progress = StageProgress(quiet=True)
    workspace = Workspace(directory, "key")
    return RebuildContext(classifier, classifier.find_layers(), data, Batching.of(8), workspace, progress)


def singular_vectors(rows: Tensor, factors: Tensor) -> Tensor:
    """Of rows times factors, and then of what those leave of the rows; [D, ``SIZE``]."""
    raw = round(SIZE * RAW_SHARE)
    first = torch.linalg.svd(factors[:, None] * rows, full_matrices=False)[2][:raw].mT
    rest = torch.linalg.svd(rows - rows @ first @ first.mT, full_matrices=False)[2][: SIZE - raw].mT
    return torch.cat([first, rest], dim=1)


@pytest.mark.parametrize("count", [28, 40], ids=["a sample", "all examples"])
def test_the_basis_in_pieces_has_the_singular_vectors_of_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("proponent.rebuild.batching.CHUNK", 8)
    monkeypatch.setattr("proponent.attribution.embedding.joint.BLOCK", 8)
    monkeypatch.setattr("proponent.rebuild.joint_sample.MOMENT_EXAMPLES", 16)  # which come first, and not in order
    monkeypatch.setattr("proponent.rebuild.joint_stage.PIECES", 5)
    monkeypatch.setattr("proponent.rebuild.joint_stage.sample_size", lambda *_: count)
    path = tiny.project(tmp_path / "project", model="grouped", curvature={"kind": "ekfac", "embedding_size": SIZE})
    context = opened(path, tmp_path / "work")
    with context.progress:
        found, _ = compress(context, fit_factors(context), 10.0)
    left = {path.stem.split("-")[0] for path in (tmp_path / "work").glob("*.safetensors")}
    assert left.isdisjoint({"sample", "whole", "products", "mixtures", "columns"}) and "basis" in left
    positions = sorted(context.data.sample(count, context.settings.seed + 2)) if count < 40 else range(40)
    whole = directions_of(context, stored_whitening(context), stored_subspaces(context), positions)
    norms = whole["energy"].sqrt()
    expected = singular_vectors(whole["z"].double() / norms[:, None], whole["scale"] * norms)
    cosines = torch.linalg.svdvals(expected.mT @ found.basis.double())
    assert found.basis.shape == expected.shape
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 16, 17, 100])
def test_directions_come_back_from_their_pieces(width: int) -> None:
    rows = {"z": torch.randn(4, width), "energy": torch.rand(4)}
    stored = in_pieces(rows)
    assert "z" not in stored and sum(piece.shape[1] for piece in map(stored.get, stored) if piece.dim() > 1) == width
    back = from_pieces(stored)
    assert back.keys() == rows.keys() and all(torch.equal(back[name], rows[name]) for name in rows)
