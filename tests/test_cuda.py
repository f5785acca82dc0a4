"""On a CUDA device the same scores come out; runs where there is one, skips visibly elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import test_row_code as coded_rows
import tiny
from proponent.cuda_graphs import WAITED
from proponent.explainer import Explainer
from proponent.explainer.query import CHECKED
from proponent.index import row_store
from proponent.index.row_code import CodedRows
from proponent.index.row_store import ROW_OVERHEAD, SINGLE_ERROR, ResidentRows, StreamedRows
from proponent.index.rows import InfluenceIndex
from proponent.index.search import search
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, load_spec
from proponent.stages import Stopwatch
from proponent.training.train_preset import train_preset
from test_rows import build, queries_of, random_rows, random_scales, unit

CUDA = torch.device("cuda")
COUNT, SIZE, ROW = 30_000, 40, 2 * 48

pytestmark = [
    pytest.mark.cuda,
    # Said once, where the first product of a process is that of a backward.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def on(spec: ModelSpec, device: str) -> ModelSpec:
    return spec.model_copy(update={"device": device})


@pytest.mark.parametrize("kind", ["exact", "ekfac"])
def test_a_rebuild_and_its_answers_agree_with_the_cpu(kind: str, tmp_path: Path) -> None:
    train_preset("digits", tmp_path / "model")
    spec = load_spec(tmp_path / "model")
    spec = spec.model_copy(update={"curvature": spec.curvature.model_copy(update={"kind": kind})})
    answers = []
    for device in ("cpu", "cuda"):
        bundle = rebuild(on(spec, device), Store(tmp_path / device), RebuildOptions(quiet=True))
        explainer = Explainer.load(bundle, device=torch.device(device))
        _, tensor, _ = TrainingSet.open(explainer.classifier, spec.held_out, "held_out").item(0)
        [answer] = explainer.explain([tensor], [ExplainOptions(top_k=3)])
        answers.append([i.score for result in answer.results for i in result.proponents])
    assert answers[1] == pytest.approx(answers[0], rel=1e-3)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_on_the_device_and_rows_streamed_to_it_give_the_lists_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(row_store, "BUFFER_BYTES", 700 * ROW)
    on_cpu = build(tmp_path, random_rows(COUNT, SIZE), random_scales(COUNT))
    files = tmp_path / "rows.faiss", tmp_path / "scales.safetensors"
    resident = InfluenceIndex.open(*files, SIZE, CUDA)
    streamed = InfluenceIndex.open(*files, SIZE, CUDA, budget=COUNT * ROW_OVERHEAD + 10_000 * ROW)
    assert isinstance(resident._rows, ResidentRows)
    assert isinstance(streamed._rows, StreamedRows)
    queries = queries_of(batch, SIZE, 12)
    expected = search(on_cpu, queries, tuple(Measure))
    for index in (resident, streamed, streamed):
        for found, wanted in zip(search(index, queries, tuple(Measure)), expected, strict=True):
            for measure in Measure:
                for end, other in zip(found[measure], wanted[measure], strict=True):
                    assert end.rows == other.rows
                    assert end.scores == pytest.approx(other.scores, rel=1e-9)


@pytest.mark.parametrize("room", [None, 250])
@pytest.mark.parametrize("batch", [1, 3])
def test_coded_rows_on_the_device_give_the_lists_of_the_cpu(tmp_path: Path, room: int | None, batch: int) -> None:
    """Also where a third of them lies there and the others are streamed; what is kept and summed of them, too."""
    codes, code = coded_rows.coded()
    on_cpu = coded_rows.stored(tmp_path, codes, code)
    budget = None if room is None else len(codes) * ROW_OVERHEAD + 32 * room
    index = coded_rows.stored(tmp_path, codes, code, budget, CUDA)
    assert isinstance(index._rows, CodedRows) and index._rows.device.type == "cuda"
    queries = queries_of(batch, coded_rows.WIDTH, 12)
    for _ in range(2):
        found, expected = (search(each, queries, tuple(Measure)) for each in (index, on_cpu))
        for lists, wanted in zip(found, expected, strict=True):
            for measure in Measure:
                for end, other in zip(lists[measure], wanted[measure], strict=True):
                    assert end.rows == other.rows
                    assert end.scores == pytest.approx(other.scores, rel=1e-5)
    some, weights = torch.tensor([5, 0, 699]), torch.linspace(-1, 1, len(codes), dtype=torch.float64)
    torch.testing.assert_close(index._rows.take(some).cpu(), on_cpu._rows.take(some), rtol=1e-5, atol=1e-6)
    sums = [each._rows.weighted_sum(weights) for each in (index, on_cpu)]
    torch.testing.assert_close(*sums, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [33, 768, 2048])
@pytest.mark.parametrize("batch", [1, 2, 32])
def test_products_on_the_device_keep_their_bound(size: int, batch: int) -> None:
    rows, queries = random_rows(5000, size).to(CUDA), unit(random_rows(batch, size, seed=2).float()).to(CUDA)
    error = ResidentRows(rows).products(queries).double() - queries.double() @ rows.double().T
    assert float(error.abs().max()) <= SINGLE_ERROR


def test_from_inputs_to_scored_candidates_the_host_waits_for_nothing(tmp_path: Path) -> None:
    path = tiny.project(tmp_path / "project", model="grouped", curvature={"kind": "ekfac", "embedding_size": 8})
    bundle = rebuild(on(load_spec(path), "cuda"), Store(tmp_path / "store"), RebuildOptions(quiet=True))
    explainer = Explainer.load(bundle, device=CUDA)
    targets, options = [Target(), Target(class_id=1), Target(class_id=1, against=2)], [ExplainOptions()] * 3

    def ask(seed: int) -> None:
        pending = explainer._embedder.begin(tiny.inputs(3, seed), targets, Stopwatch())
        explainer._retrieval.begin(pending.batch.directions, options)

    for seed in range(WAITED + CHECKED):  # libraries set themselves up, graphs are recorded and compared
        ask(seed)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        ask(WAITED + CHECKED)
